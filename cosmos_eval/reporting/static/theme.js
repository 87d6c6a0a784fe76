// Light or dark colours. A page opened from a file may have no storage: then the choice lasts until
// the page is closed.

const remembered = () => {
  try {
    return localStorage.getItem("cosmos-eval-theme") || "";
  } catch {
    return "";
  }
};

const useTheme = (theme) => {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
};

const themeChoice = document.getElementById("theme");
themeChoice.value = ["light", "dark"].includes(remembered()) ? remembered() : "";
useTheme(themeChoice.value);
themeChoice.addEventListener("change", () => {
  try {
    localStorage.setItem("cosmos-eval-theme", themeChoice.value);
  } catch {
    // Without storage the choice is not remembered.
  }
  useTheme(themeChoice.value);
});
