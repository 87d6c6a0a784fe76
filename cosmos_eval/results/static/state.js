// Restore the state that the address holds, after all other scripts have run.
const readState = () => {
  const address = location.hash.slice(1);
  const state = new URLSearchParams(address);
  for (const part of stateParts) part.read(state);
  revealAndScroll(document.getElementById(sectionOf(address)));
};
readState();
// A link to a section has no state: the page keeps its state.
addEventListener("hashchange", () => {
  if (location.hash.includes("=")) return readState();
  saveState();
  reveal(document.getElementById(sectionOf(location.hash.slice(1))));
});
