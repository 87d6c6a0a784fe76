// Pictures that stand in several places are carried in the first one.
for (const image of all("img[data-same]")) {
  image.src = document.getElementById(image.dataset.same).src;
}
