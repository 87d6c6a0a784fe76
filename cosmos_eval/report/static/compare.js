// Two models chosen by the reader: differences on all data sets, then class by class.
const METRIC = 0, OF_A = 1, OF_B = 2, DIFFERENCE = 3, LOW = 4, HIGH = 5, P = 6, HOLM = 7, BETTER = 8,
  ONLY_A = 9, ONLY_B = 10;
const compareListeners = [];
const choice = { a: document.getElementById("model-a"), b: document.getElementById("model-b") };
const classChoice = document.getElementById("class-table");

const flipped = (test) => {
  const copy = test.slice();
  [copy[OF_A], copy[OF_B]] = [test[OF_B], test[OF_A]];
  [copy[LOW], copy[HIGH]] = [-test[HIGH], -test[LOW]];
  [copy[ONLY_A], copy[ONLY_B]] = [test[ONLY_B], test[ONLY_A]];
  copy[DIFFERENCE] = -test[DIFFERENCE];
  copy[BETTER] = { A: "B", B: "A", "": "" }[test[BETTER]];
  return copy;
};

const pairOf = (a, b) => {
  const found = data.pairs.find((one) => (one.a === a && one.b === b) || (one.a === b && one.b === a));
  if (!found) return { tests: [], why: [], mean: null };
  if (found.a === a) return found;
  const mean = found.mean && [-found.mean[0], -found.mean[2], -found.mean[1]];
  return { why: found.why, tests: found.tests.map(flipped), mean };
};

// A bar from low to high around zero, and the difference in it; `reach` is the scale's end.
const forest = (difference, low, high, reach, side) => {
  const at = (value) => 50 + 48 * Math.max(-1, Math.min(1, value / reach));
  const range = { x: at(low), y: 5, width: Math.max(0.6, at(high) - at(low)), height: 6, class: `range ${side}` };
  const picture = draw("svg", { viewBox: "0 0 100 16", preserveAspectRatio: "none", "aria-hidden": "true" }, [
    draw("line", { x1: 50, x2: 50, y1: 0, y2: 16, class: "zero" }),
    draw("rect", range),
    draw("rect", { x: at(difference) - 0.6, y: 3, width: 1.2, height: 10, class: side }),
  ]);
  return make("td", { className: "forest" }, [picture]);
};

const sideOf = (better) => ({ A: "a", B: "b" })[better] ?? "none";

const number = (value, digits = 1) => make("td", { textContent: value.toFixed(digits) });

// Shares are in percent; what is no share has a scale of its own.
const isShare = (test) => data.metrics[test[METRIC]].share;

const testRow = (test, reach) => {
  const metric = data.metrics[test[METRIC]];
  const digits = isShare(test) ? 1 : 2;
  const dataset = make("th", { scope: "row" }, [
    metric.dataset, " ", make("span", { className: "protocol", textContent: metric.protocol })]);
  const difference = make("td", {}, [
    signed(test[DIFFERENCE], 2),
    make("small", { textContent: `[${signed(test[LOW], 2)}, ${signed(test[HIGH], 2)}]` })]);
  difference.dataset.value = test[DIFFERENCE];
  const bar = forest(test[DIFFERENCE], test[LOW], test[HIGH], reach, sideOf(test[BETTER]));
  bar.dataset.value = test[DIFFERENCE];
  const count = (value) => make("td", { textContent: value ?? "" });
  const better = make("td", { className: `text side-${sideOf(test[BETTER])}`, textContent: test[BETTER] });
  return make("tr", {}, [
    dataset, make("td", { className: "text", textContent: metric.title }),
    number(test[OF_A], digits), number(test[OF_B], digits), difference, bar,
    make("td", { textContent: test[P] }), make("td", { textContent: test[HOLM] }),
    better, count(test[ONLY_A]), count(test[ONLY_B])]);
};

const reachOf = (numbers) => Math.max(0.01, ...numbers.map(Math.abs));

const fill = (table, rows) => {
  for (const title of table.tHead.rows[0].cells) title.removeAttribute("aria-sort");
  table.tBodies[0].replaceChildren(...rows);
};

const showPair = () => {
  const a = Number(choice.a.value), b = Number(choice.b.value);
  const { tests, why, mean } = pairOf(a, b);
  const ends = (share) => tests.filter((test) => isShare(test) === share).flatMap((test) => [test[LOW], test[HIGH]]);
  const reach = new Map([true, false].map((share) => [share, reachOf(ends(share))]));
  fill(document.getElementById("pair-table"), tests.map((test) => testRow(test, reach.get(isShare(test)))));
  document.getElementById("pair-why").replaceChildren(
    ...why.map((line) => make("li", { textContent: `not compared: ${line}` })));
  const wins = (side) => tests.filter((test) => test[BETTER] === side).length;
  document.getElementById("pair-found").textContent = a === b
    ? "Choose two different models."
    : `${mean ? `Mean of A − B: ${signed(mean[0])} [${signed(mean[1])}, ${signed(mean[2])}]. ` : ""}A better in ${wins("A")}, B in ${wins("B")} of ${tests.filter((test) => test[HOLM]).length} tests`;
  const usable = data.classes.filter((one) => one.models.includes(a) && one.models.includes(b));
  const former = classChoice.value;
  classChoice.replaceChildren(...usable.map((one) => make("option", {
    value: data.classes.indexOf(one), textContent: `${one.dataset} (${one.protocol}): ${one.figure}`,
  })));
  if (usable.some((one) => String(data.classes.indexOf(one)) === former)) classChoice.value = former;
  document.getElementById("pair-classes").hidden = a === b || usable.length === 0;
  showClasses();
};

// The classes of the chosen table that both models have a number of, the largest difference first.
const chosenClasses = () => {
  const table = data.classes[Number(classChoice.value)];
  if (!table || document.getElementById("pair-classes").hidden) return [];
  const [a, b] = [choice.a, choice.b].map((one) => table.values[table.models.indexOf(Number(one.value))]);
  return table.names
    .map((name, place) => ({ name, a: a[place], b: b[place] }))
    .filter((one) => one.a !== null && one.b !== null)
    .sort((one, other) => Math.abs(other.a - other.b) - Math.abs(one.a - one.b));
};

const classRow = (one, reach) => {
  const difference = one.a - one.b;
  const bar = forest(difference, Math.min(0, difference), Math.max(0, difference), reach,
    sideOf(difference > 0 ? "A" : difference < 0 ? "B" : ""));
  bar.dataset.value = difference;
  const text = make("td", { textContent: signed(difference) });
  text.dataset.value = difference;
  return make("tr", {}, [
    make("th", { scope: "row", textContent: one.name }), number(one.a), number(one.b), text, bar]);
};

const showClasses = () => {
  const classes = chosenClasses();
  const reach = reachOf(classes.map((one) => one.a - one.b));
  fill(document.getElementById("class-pair"), classes.map((one) => classRow(one, reach)));
  for (const listener of compareListeners) listener();
  saveState();
};

const choosePair = (a, b) => {
  choice.a.value = a;
  choice.b.value = b;
  showPair();
};

if (choice.a) {
  choice.a.addEventListener("change", showPair);
  choice.b.addEventListener("change", showPair);
  classChoice.addEventListener("change", showClasses);
  document.getElementById("swap").addEventListener("click", () => choosePair(choice.b.value, choice.a.value));
  for (const cell of all("table.wins td[data-pair]")) {
    const [a, b] = cell.dataset.pair.split(" ").map(Number);
    const label = `Compare ${data.models[a]} with ${data.models[b]}: ${cell.textContent.trim()}`;
    const button = make("button", { type: "button", ariaLabel: label }, Array.from(cell.childNodes));
    button.addEventListener("click", () => {
      choosePair(a, b);
      document.getElementById("pair").scrollIntoView({ block: "nearest" });
      choice.a.focus();
    });
    cell.append(button);
  }
  choosePair(...data.first);
  stateParts.push({
    write: (given) => {
      const chosen = [choice.a, choice.b].map((one) => Number(one.value));
      if (chosen.some((model, side) => model !== data.first[side])) {
        chosen.forEach((model, side) => given.set("ab"[side], data.models[model]));
      }
    },
    read: (given) => {
      const named = ["a", "b"].map((side) => data.models.indexOf(given.get(side)));
      choosePair(...named.map((model, side) => (model < 0 ? data.first[side] : model)));
    },
  });
}
