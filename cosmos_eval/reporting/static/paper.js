// Open blocks that are printed, and close them again after printing.
let openedForPaper = [];
addEventListener("beforeprint", () => {
  openedForPaper = all("details.printed:not([open])");
  for (const details of openedForPaper) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of openedForPaper) details.open = false;
});
