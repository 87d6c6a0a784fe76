// What the parts of the page share. Texts from data become text nodes, never markup.
const data = JSON.parse(document.getElementById("data").textContent);

const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));

const make = (tag, properties = {}, children = []) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const SVG = "http://www.w3.org/2000/svg";

const draw = (tag, attributes, children = []) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

const signed = (number, digits = 1) => {
  const text = number.toFixed(digits);
  return Number(text) > 0 ? `+${text}` : text.replace("-", "\u2212");
};

// A requested task runs when the browser has nothing better to do.
const soon = (task) => {
  let waiting = 0;
  return () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(task);
  };
};

// The page's address keeps its state: each part adds its own by `write`, and takes it by `read`.
const stateParts = [];
const sectionOf = (address) => address.split("&").find((piece) => piece && !piece.includes("=")) ?? "";
const saveState = soon(() => {
  const given = new URLSearchParams();
  for (const part of stateParts) part.write(given);
  const [page, address = ""] = location.href.split("#");
  const text = [sectionOf(address), given.toString()].filter(Boolean).join("&");
  history.replaceState(null, "", text ? `${page}#${text}` : page);
});

for (const part of all(".scripted")) part.hidden = false;
for (const part of all(".unscripted")) part.hidden = true;
