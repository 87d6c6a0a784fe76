// Functions that all scripts use. Texts from data become text nodes, never markup.
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

// Round halves away from zero, by the decimal digits that the number is written with, as all tables
// do: 67.05 is 67.1. toFixed makes 67.0 of it, since the number in the computer is a little less.
const rounded = (number, digits = 1) => {
  const size = Math.abs(number);
  // An exponent moves the decimal point without an error: "67.05e1" is 670.5.
  const units = size < 1e-6 ? 0 : Math.round(Number(`${size}e${digits}`));
  const text = Number(`${units}e-${digits}`).toFixed(digits);
  return number < 0 && units > 0 ? `-${text}` : text;
};

const signed = (number, digits = 1) => {
  const text = rounded(number, digits);
  return Number(text) > 0 ? `+${text}` : text.replace("-", "\u2212");
};

// Return a function that requests a task. It runs once before the next frame, however often it is
// requested.
const soon = (task) => {
  let request = 0;
  return () => {
    cancelAnimationFrame(request);
    request = requestAnimationFrame(task);
  };
};

// The address of the page holds its state. Each script adds an object to `stateParts`: `write` puts
// its own state into the URL parameters, and `read` takes it from them.
const stateParts = [];
// The id of the section in an address such as `section&name=value`.
const sectionOf = (address) => address.split("&").find((piece) => piece && !piece.includes("=")) ?? "";
const saveState = soon(() => {
  const state = new URLSearchParams();
  for (const part of stateParts) part.write(state);
  const [page, address = ""] = location.href.split("#");
  const text = [sectionOf(address), state.toString()].filter(Boolean).join("&");
  history.replaceState(null, "", text ? `${page}#${text}` : page);
});

// Save a file as a download. Characters that file names should not have become hyphens.
const saveFile = (name, extension, content, type) => {
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  make("a", { href: address, download: `${name.replace(/[^\w.-]+/g, "-").slice(0, 80)}.${extension}` }).click();
  setTimeout(() => URL.revokeObjectURL(address));
};

// Say what was done, to screen readers too.
const tell = (text) => {
  document.getElementById("told").textContent = text;
};

// Pages that are served without encryption have no `clipboard`.
const copyText = async (text) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = make("textarea", { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
};

// Open everything that an element is in, and the section that it is.
const reveal = (element) => {
  for (let ancestor = element; ancestor; ancestor = ancestor.parentElement) {
    if (ancestor.tagName === "DETAILS") ancestor.open = true;
  }
  const ownBlock = element?.querySelector(":scope > details.section");
  if (ownBlock) ownBlock.open = true;
};

const revealAndScroll = (element) => {
  reveal(element);
  element?.scrollIntoView();
};

for (const element of all(".scripted")) element.hidden = false;
for (const element of all(".unscripted")) element.hidden = true;
