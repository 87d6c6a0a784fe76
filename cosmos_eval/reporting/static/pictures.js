// A picture that is shown in several places is stored in the first one: the others copy its address.
for (const image of all("img[data-same]")) {
  image.src = document.getElementById(image.dataset.same).src;
}

// A dialog that shows all pictures of an example as large as there is room, with their file names.
const showEnlarged = makeDialog("enlarged");

const enlarge = (example, button) => {
  const copy = example.cloneNode(true);
  for (const control of all("button, .slider, .edge", copy)) {
    control.replaceWith(...all(":scope > img", control));
  }
  for (const stack of all(".stacked", copy)) stack.classList.remove("stacked");
  for (const image of all("img", copy)) {
    image.removeAttribute("id");
    image.loading = "eager";
    if (image.dataset.file && image.alt) image.after(make("small", { className: "file", textContent: image.dataset.file }));
  }
  showEnlarged(example.dataset.title, copy, button);
};

const makeEnlargeButton = (example, content) => {
  const button = make("button", { type: "button", className: "enlarge", ariaLabel: `Enlarge: ${example.dataset.title}` }, content);
  button.setAttribute("aria-haspopup", "dialog");
  button.addEventListener("click", () => enlarge(example, button));
  return button;
};

for (const sample of all("figure.sample")) {
  sample.prepend(makeEnlargeButton(sample, [sample.querySelector("img")]));
}
for (const card of all(".card")) card.append(makeEnlargeButton(card, ["Enlarge"]));
