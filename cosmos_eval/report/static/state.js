// Restore the state that the address holds, after all other scripts have run.
const readState = () => {
  const address = location.hash.slice(1);
  const state = new URLSearchParams(address);
  for (const part of stateParts) part.read(state);
  if (address.includes("=")) document.getElementById(sectionOf(address))?.scrollIntoView();
};
readState();
// A link to a section has no state: the page keeps its state.
addEventListener("hashchange", () => (location.hash.includes("=") ? readState() : saveState()));
