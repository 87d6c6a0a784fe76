// The state that an address holds, once all parts are there.
const readState = () => {
  const address = location.hash.slice(1);
  const given = new URLSearchParams(address);
  for (const part of stateParts) part.read(given);
  if (address.includes("=")) document.getElementById(sectionOf(address))?.scrollIntoView();
};
readState();
// A link to a section has no state: it keeps what there is.
addEventListener("hashchange", () => (location.hash.includes("=") ? readState() : saveState()));
