// The comparison of two models that the reader chooses: on all data sets, then class by class.
const compareListeners = [];
const choice = { a: document.getElementById("model-a"), b: document.getElementById("model-b") };
const classChoice = document.getElementById("class-table");

const NO_PAIR = { tests: [], obstacles: [], mean: null };

// A test of A and B as a test of B and A.
const swapTest = (test) => ({
  ...test,
  a: test.b, b: test.a,
  difference: -test.difference, low: -test.high, high: -test.low,
  better: { A: "B", B: "A", "": "" }[test.better],
  onlyA: test.onlyB, onlyB: test.onlyA,
});

const swapMean = (mean) => mean && { difference: -mean.difference, low: -mean.high, high: -mean.low };

const pairOf = (a, b) => {
  const pair = data.pairs.find((candidate) => candidate.a === a && candidate.b === b);
  if (pair) return pair;
  const swapped = data.pairs.find((candidate) => candidate.a === b && candidate.b === a);
  if (!swapped) return NO_PAIR;
  return { tests: swapped.tests.map(swapTest), obstacles: swapped.obstacles, mean: swapMean(swapped.mean) };
};

// A table cell with a bar from `low` to `high` and a mark at `difference`, on a scale from -reach
// to +reach.
const forest = ({ difference, low, high }, reach, side) => {
  const place = (value) => 50 + 48 * Math.max(-1, Math.min(1, value / reach));
  const width = Math.max(0.6, place(high) - place(low));
  const picture = draw("svg", { viewBox: "0 0 100 16", preserveAspectRatio: "none", "aria-hidden": "true" }, [
    draw("line", { x1: 50, x2: 50, y1: 0, y2: 16, class: "zero" }),
    draw("rect", { x: place(low), y: 5, width, height: 6, class: `range ${side}` }),
    draw("rect", { x: place(difference) - 0.6, y: 3, width: 1.2, height: 10, class: side }),
  ]);
  const cell = make("td", { className: "forest" }, [picture]);
  cell.dataset.value = difference;
  return cell;
};

const sideOf = (better) => ({ A: "a", B: "b" })[better] ?? "none";

const numberCell = (value, digits = 1) => make("td", { textContent: rounded(value, digits) });

const textCell = (text) => make("td", { textContent: text ?? "" });

// Shares are in percent; other metrics have a scale of their own.
const isShare = (test) => data.metrics[test.metric].share;

// A number of samples that only one model has right, as a button that shows them if the page has
// such samples.
const sampleCountCell = (count, { dataset, protocol, name }, side) => {
  const [right, wrong] = side === "A" ? [choice.a, choice.b] : [choice.b, choice.a];
  const sample = `.sample:has(.good[data-model="${right.value}"]):has(.bad[data-model="${wrong.value}"])`;
  const cards = sampleCards.find((candidate) =>
    candidate.dataset.set === `${dataset} ${protocol}` && candidate.dataset.metric === name && candidate.querySelector(sample));
  const cell = make("td", { textContent: count ?? "" });
  if (cards) {
    const label = `show samples of ${cards.dataset.name} that only ${side} has right`;
    addCountButton(cell, label, () => showSamples({ dataset: cards.dataset.name, outcome: side === "A" ? "10" : "01" }));
  }
  return cell;
};

const testRow = (test, reach) => {
  const metric = data.metrics[test.metric];
  const digits = metric.share ? 1 : 2;
  const side = sideOf(test.better);
  const dataset = make("th", { scope: "row" }, [
    metric.dataset, " ", make("span", { className: "protocol", textContent: metric.protocol })]);
  const difference = make("td", {}, [
    signed(test.difference, 2),
    make("small", { textContent: `[${signed(test.low, 2)}, ${signed(test.high, 2)}]` })]);
  difference.dataset.value = test.difference;
  return make("tr", {}, [
    dataset,
    make("td", { className: "text", textContent: metric.title }),
    numberCell(test.a, digits),
    numberCell(test.b, digits),
    difference,
    forest(test, reach, side),
    textCell(test.p),
    textCell(test.holm),
    make("td", { className: `text side-${side}`, textContent: test.better }),
    sampleCountCell(test.onlyA, metric, "A"),
    sampleCountCell(test.onlyB, metric, "B"),
  ]);
};

const largest = (numbers) => Math.max(0.01, ...numbers.map(Math.abs));

// Replace the rows of a table, which is not sorted by any column any more.
const fill = (table, rows) => {
  for (const title of table.tHead.rows[0].cells) title.removeAttribute("aria-sort");
  table.tBodies[0].replaceChildren(...rows);
};

const pairSummary = (tests, mean) => {
  const countWins = (side) => tests.filter((test) => test.better === side).length;
  const decisive = tests.filter((test) => test.holm).length;
  const meanText = mean ? `Mean of A − B: ${signed(mean.difference)} [${signed(mean.low)}, ${signed(mean.high)}]. ` : "";
  return `${meanText}A better in ${countWins("A")}, B in ${countWins("B")} of ${decisive} tests`;
};

// Offer the tables of classes that have both models, and keep the chosen one if it is among them.
const offerClassTables = (a, b) => {
  const hasModel = (table, model) => table.columns.some((column) => column.model === model);
  const formerChoice = classChoice.value;
  const options = [];
  data.classes.forEach((table, number) => {
    if (!hasModel(table, a) || !hasModel(table, b)) return;
    options.push(make("option", { value: number, textContent: `${table.dataset} (${table.protocol}): ${table.figure}` }));
  });
  classChoice.replaceChildren(...options);
  if (options.some((option) => option.value === formerChoice)) classChoice.value = formerChoice;
  document.getElementById("pair-classes").hidden = a === b || options.length === 0;
};

const showPair = () => {
  const a = Number(choice.a.value), b = Number(choice.b.value);
  const { tests, obstacles, mean } = pairOf(a, b);
  const reachOf = (share) => largest(
    tests.filter((test) => isShare(test) === share).flatMap((test) => [test.low, test.high]));
  const shareReach = reachOf(true), otherReach = reachOf(false);
  const rows = tests.map((test) => testRow(test, isShare(test) ? shareReach : otherReach));
  fill(document.getElementById("pair-table"), rows);
  document.getElementById("pair-why").replaceChildren(
    ...obstacles.map((line) => make("li", { textContent: `not compared: ${line}` })));
  document.getElementById("pair-found").textContent =
    a === b ? "Choose two different models." : pairSummary(tests, mean);
  offerClassTables(a, b);
  showClasses();
};

// The classes of the chosen table for which both models have a number, the largest difference first.
const chosenClasses = () => {
  const table = data.classes[Number(classChoice.value)];
  if (!table || document.getElementById("pair-classes").hidden) return [];
  const valuesOf = (select) => table.columns.find((column) => column.model === Number(select.value)).values;
  const aValues = valuesOf(choice.a), bValues = valuesOf(choice.b);
  return table.names
    .map((name, number) => ({ name, a: aValues[number], b: bValues[number] }))
    .filter(({ a, b }) => a !== null && b !== null)
    .sort((first, second) => Math.abs(second.a - second.b) - Math.abs(first.a - first.b));
};

const classRow = ({ name, a, b }, reach) => {
  const difference = Number((a - b).toFixed(9));  // without the error of a subtraction
  const better = difference > 0 ? "A" : difference < 0 ? "B" : "";
  const bar = { difference, low: Math.min(0, difference), high: Math.max(0, difference) };
  const differenceCell = make("td", { textContent: signed(difference) });
  differenceCell.dataset.value = difference;
  return make("tr", {}, [
    make("th", { scope: "row", textContent: name }),
    numberCell(a),
    numberCell(b),
    differenceCell,
    forest(bar, reach, sideOf(better)),
  ]);
};

const showClasses = () => {
  const classes = chosenClasses();
  const reach = largest(classes.map(({ a, b }) => a - b));
  fill(document.getElementById("class-pair"), classes.map((row) => classRow(row, reach)));
  for (const listener of compareListeners) listener();
  saveState();
};

const choosePair = (a, b) => {
  choice.a.value = a;
  choice.b.value = b;
  showPair();
};

// Choose a model as A. If it is B, A and B change places. The page of a single model has no choice.
const chooseA = (model) => {
  if (!choice.a) return;
  const a = Number(choice.a.value), b = Number(choice.b.value);
  if (model !== a) choosePair(model, model === b ? a : b);
};

// A cell of the table of all models becomes a button that chooses its two models.
const makePairButton = (cell) => {
  const [a, b] = cell.dataset.pair.split(" ").map(Number);
  const label = `Compare ${data.models[a]} with ${data.models[b]}: ${cell.textContent.trim()}`;
  const button = make("button", { type: "button", ariaLabel: label }, Array.from(cell.childNodes));
  button.addEventListener("click", () => {
    choosePair(a, b);
    document.getElementById("pair").scrollIntoView({ block: "nearest" });
    choice.a.focus();
  });
  cell.append(button);
};

// The page of a single model has no choice.
if (choice.a) {
  const [firstA, firstB] = data.first;
  choice.a.addEventListener("change", showPair);
  choice.b.addEventListener("change", showPair);
  classChoice.addEventListener("change", showClasses);
  document.getElementById("swap").addEventListener("click", () => choosePair(choice.b.value, choice.a.value));
  all("table.wins td[data-pair]").forEach(makePairButton);
  choosePair(firstA, firstB);
  stateParts.push({
    write: (state) => {
      const a = Number(choice.a.value), b = Number(choice.b.value);
      if (a === firstA && b === firstB) return;
      state.set("a", data.models[a]);
      state.set("b", data.models[b]);
    },
    read: (state) => {
      const numberOf = (side, first) => {
        const number = data.models.indexOf(state.get(side));
        return number < 0 ? first : number;
      };
      choosePair(numberOf("a", firstA), numberOf("b", firstB));
    },
  });
}
