// A picture that is shown in several places is stored in the first one: the others copy its address.
for (const image of all("img[data-same]")) {
  image.src = document.getElementById(image.dataset.same).src;
}
