// Sections that the reader opens. A link to something in a closed section opens the section.
const sectionBlocks = all("details.section");
for (const block of sectionBlocks) block.isOpenAtStart = block.open;
const openButton = document.getElementById("open-sections");

const areAllOpen = () => sectionBlocks.every((block) => block.open);
const labelOpenButton = () => {
  openButton.textContent = areAllOpen() ? "Close all sections" : "Open all sections";
};
openButton.addEventListener("click", () => {
  const isOpening = !areAllOpen();
  for (const block of sectionBlocks) block.open = isOpening;
});
for (const block of sectionBlocks) {
  block.addEventListener("toggle", () => {
    labelOpenButton();
    saveState();
  });
}
stateParts.push({
  write: (state) => {
    for (const block of sectionBlocks) if (block.open && !block.isOpenAtStart) state.append("open", block.parentElement.id);
  },
  read: (state) => {
    for (const id of state.getAll("open")) reveal(document.getElementById(id));
  },
});
// Before the browser scrolls to the target of a link.
for (const link of all('a[href^="#"]')) {
  link.addEventListener("click", () => reveal(document.getElementById(link.hash.slice(1))));
}
