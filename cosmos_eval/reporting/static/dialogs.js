// Dialogs over the page. Closing one gives the focus back to what opened it.
const makeDialog = (id) => {
  const dialog = document.getElementById(id);
  const body = dialog.querySelector(".dialog-body");
  let opener = null;
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => opener?.focus());
  return (title, content, openedFrom) => {
    dialog.querySelector("h2").textContent = title;
    body.replaceChildren(content);
    opener = openedFrom;
    dialog.showModal();
    body.scrollTop = 0;
  };
};
