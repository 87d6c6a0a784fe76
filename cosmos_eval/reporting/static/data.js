// What the page shows in numbers; tables.py (`page_data`) says what it holds.
const data = JSON.parse(document.getElementById("data").textContent);
