// What is to be read on paper is opened for it.
let openedForPaper = [];
addEventListener("beforeprint", () => {
  openedForPaper = all("details.printed:not([open])");
  for (const part of openedForPaper) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of openedForPaper) part.open = false;
});
