"use strict";
// Everything from the data goes into the page as text: no markup is ever made from a string.
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const theme = matchMedia("(prefers-color-scheme: dark)");
  const redraws = [];

  function el(tag, given = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(given)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return made;
  }
  const say = (text) => { $("said").textContent = text; };
  const percent = (share) => share >= 0.0995 ? `${(share * 100).toFixed(0)} %` : share >= 0.00095 ? `${(share * 100).toFixed(1)} %` : share > 0 ? "< 0.1 %" : "0 %";
  const quoted = (token) => `“${token}”`;

  // Code in the margin, and the dialog that shows where it lives

  async function copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = el("textarea", { class: "aside-to-the-eye", "aria-hidden": "true" });
      area.value = text;
      (button.closest("dialog") ?? document.body).append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    say("Copied");
    const before = button.textContent;
    if (before !== "Copied") {
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = before; }, 1500);
    }
  }
  function place(where) {
    if (!where) return null;
    if (!(where in data.sources)) return el("span", { class: "mono" }, where);
    return el("button", { type: "button", class: "place", "aria-haspopup": "dialog", "aria-label": `Source: ${where}`, onclick: () => {
      $("source-title").textContent = where;
      $("source-text").textContent = data.sources[where];
      $("source").showModal();
    } }, where);
  }
  $("source-close").addEventListener("click", () => $("source").close());
  $("source-copy").addEventListener("click", (event) => copy($("source-text").textContent, event.target));

  // The lines that make a view; `write` changes them when the view does.
  function margin(id, code, where) {
    const lines = el("code", {}, code);
    const button = el("button", { type: "button", "aria-label": "Copy the code of this view", onclick: () => copy(id === "tokens" ? lines.textContent : `${data.code.setup}\n${lines.textContent}`, button) }, "Copy");
    $(id).querySelector("aside").append(
      el("h3", {}, "The code of this view"), el("div", { class: "lines" }, el("pre", { tabindex: 0, "aria-label": "Python" }, lines), button, id === "tokens" ? null : el("span", { class: "none" }, " with the setup of part 1")),
      ...(where ? [el("h3", {}, "Where it is computed"), place(where)] : []));
    return { write: (text) => { lines.textContent = text; } };
  }
  function shown(id, title) {
    $(id).hidden = false;
    const go = (event) => {
      event.preventDefault();
      $(id).scrollIntoView();
      const heading = $(`${id}-title`);
      heading.setAttribute("tabindex", "-1");
      heading.focus({ preventScroll: true });
    };
    $("contents").append(el("li", {}, el("a", { href: `#${id}`, onclick: go }, title)));
    return $(`${id}-view`);
  }
  function table(caption, heads, rows, given = {}) {
    return el("div", { class: "scroll" }, el("table", given, el("caption", {}, caption),
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", class: head.startsWith("#") ? "number" : null }, head.replace("#", ""))))),
      el("tbody", {}, rows)));
  }
  function share(value) {
    const bar = el("span", { class: "share", "aria-hidden": "true" });
    bar.style.setProperty("--w", value);
    return el("td", { class: "number" }, percent(value), bar);
  }

  // One item of several has the focus; arrow keys move it. `columns` makes up and down move by a row of a grid.
  function roving(items, choose, columns = null) {
    let at = 0;
    const go = (to, focus) => {
      items[at]?.setAttribute("tabindex", "-1");
      at = Math.max(0, Math.min(items.length - 1, to));
      items[at].setAttribute("tabindex", "0");
      if (focus) items[at].focus();
    };
    const vertical = (step) => {
      if (columns) return at + step * columns;
      const here = items[at];
      let to = at + step;
      while (items[to] && items[to].offsetTop === here.offsetTop) to += step;
      const line = items[to]?.offsetTop;
      while (items[to + step]?.offsetTop === line && (step > 0 ? items[to].offsetLeft < here.offsetLeft : items[to].offsetLeft > here.offsetLeft)) to += step;
      return items[to] ? to : at;
    };
    items.forEach((item, index) => {
      item.setAttribute("tabindex", index ? "-1" : "0");
      item.addEventListener("click", () => { go(index, true); choose(index, true); });
      item.addEventListener("keydown", (event) => {
        const moves = { ArrowRight: () => at + 1, ArrowLeft: () => at - 1, ArrowDown: () => vertical(1), ArrowUp: () => vertical(-1), Home: () => 0, End: () => items.length - 1 };
        if (event.ctrlKey || event.altKey || event.metaKey || !(event.key in moves)) return;
        event.preventDefault();
        go(moves[event.key](), true);
        choose(at, true);
      });
    });
    return (index) => go(index, false);
  }

  // Tokens as a line of text of which one is chosen, by pointing, clicking or arrow keys
  function line(tokens, label, choose, below = []) {
    const spans = tokens.map((token, index) => el("span", { class: "token", role: "option", "aria-selected": "false", "aria-label": `${token}${below[index] ? `: ${below[index]}` : ""}, ${index + 1} of ${tokens.length}` }, token, below[index] ? el("small", {}, below[index]) : null));
    const root = el("div", { class: tokens.length > 150 ? "text long" : "text", role: "listbox", "aria-label": label, "aria-orientation": "horizontal" });
    spans.forEach((span, index) => root.append(span, ...(tokens[index].includes("↵") ? [el("br")] : [])));
    const at = roving(spans, choose);
    root.addEventListener("mouseover", (event) => { const index = spans.indexOf(event.target.closest(".token")); if (index >= 0) choose(index, false); });
    let last = null;
    const mark = (index) => {
      last?.classList.remove("at");
      last?.setAttribute("aria-selected", "false");
      last = spans[index] ?? null;
      last?.classList.add("at");
      last?.setAttribute("aria-selected", "true");
      if (last) at(index);
    };
    const shade = (name, value) => spans.forEach((span, index) => { const to = value(index).toFixed(3); if (span.style.getPropertyValue(name) !== to) span.style.setProperty(name, to); });
    return { root, mark, shade };
  }

  // The text

  function showTokens() {
    const view = shown("tokens", "Tokens");
    for (const [stack, { shown: tokens, ids }] of Object.entries(data.tokens)) {
      const root = el("ol", { class: tokens.length > 150 ? "text long" : "text", "aria-label": `Tokens of the ${stack}`, ...(tokens.length > 150 ? { tabindex: 0 } : {}) });
      tokens.forEach((token, index) => root.append(el("li", { class: "token" }, token, ids ? el("small", {}, String(ids[index])) : null), ...(token.includes("↵") ? [el("li", { class: "break", role: "presentation" })] : [])));
      view.append(el("h3", {}, `What the ${stack} reads: ${tokens.length} token${tokens.length === 1 ? "" : "s"}`), root);
    }
    if (data.rows > 1) view.prepend(el("p", { class: "word" }, `The call had ${data.rows} texts; this page shows number ${data.row + 1}.`));
    margin("tokens", `${data.code.setup}\n${data.code.trace}\nprint(t.tokens)`, data.where.tokens);
  }

  // The structure

  const number = (value) => value.toLocaleString("en");
  function part(one, depth) {
    const box = ["stack", "layer", "attention", "feedforward", "embedding"].includes(one.kind);
    const root = el("li", { class: `part ${box ? "box" : ""} ${one.kind}` },
      el("div", { class: "line" },
        el("span", { class: "what" }, one.times > 1 ? `${one.times} × ${one.title}` : one.title), one.detail ? el("span", { class: "detail" }, one.detail) : null,
        one.parameters ? el("span", { class: "size" }, `${number(one.parameters)} parameters${one.times > 1 ? " each" : ""}`) : one.tied ? el("span", { class: "size" }, `the same numbers as ${one.tied}`) : null,
        el("span", { class: "live" }, one.live ?? one.shape)),
      el("div", { class: "line" }, el("span", { class: "mono" }, one.stored && !["stack", "layer", "step"].includes(one.kind) ? `${one.name} ← ${one.stored}` : one.name), place(one.source)));
    if (!one.parts.length) return root;
    const inner = el("ol", { class: "parts" }, one.parts.map((child) => part(child, depth + 1)));
    root.append(["attention", "feedforward", "embedding"].includes(one.kind) ? el("details", {}, el("summary", {}, "What is inside"), inner) : inner);
    return root;
  }
  function showStructure() {
    const view = shown("structure", "Structure");
    const { class_name: name, kind, parameters, bytes, dtype, parts } = data.structure;
    view.append(el("p", { class: "caption" }, `${name}, ${kind}: ${number(parameters)} parameters, ${(bytes / 1e6).toFixed(1)} MB in ${dtype}. On the right, the shape that each part gave.`),
      el("ol", { class: "parts" }, parts.map((one) => part(one, 0))));
    margin("structure", data.code.structure, data.where.structure);
  }

  // Attention

  let palette = null;
  function colours() {
    if (palette) return palette;
    const style = getComputedStyle(document.documentElement);
    const stops = [0, 1, 2].map((index) => style.getPropertyValue(`--heat-${index}`).trim().match(/[0-9a-f]{2}/gi).map((hex) => parseInt(hex, 16)));
    palette = new Uint32Array(256);
    const bytes = new Uint8Array(palette.buffer);
    for (let value = 0; value < 256; value++) {
      const at = value / 127.5, low = Math.min(1, Math.floor(at));
      for (let channel = 0; channel < 3; channel++) bytes[value * 4 + channel] = stops[low][channel] + (stops[low + 1][channel] - stops[low][channel]) * (at - low);
      bytes[value * 4 + 3] = 255;
    }
    return palette;
  }
  // A canvas of one pixel a cell; `cell` gives 0 to 255, where 0 is the paper.
  function pixels(canvas, rows, columns, cell) {
    canvas.width = columns;
    canvas.height = rows;
    const image = new ImageData(columns, rows), ink = new Uint32Array(image.data.buffer), shades = colours();
    for (let index = 0; index < ink.length; index++) ink[index] = shades[cell(index)];
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
  const decoded = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

  function showAttention() {
    const view = shown("attention", "Attention");
    const body = el("div");
    const pick = el("select", { "aria-label": "Which attention", onchange: () => show(data.attention[pick.selectedIndex]) }, data.attention.map((kind) => el("option", {}, kind.title)));
    const which = data.attention.length > 1 ? el("label", {}, "Which attention", pick) : null;
    view.append(body);
    const code = margin("attention", "", data.where.attention);
    let redraw = () => {};
    redraws.push(() => redraw());
    show(data.attention[0]);

    function show(kind) {
      const { rows, columns, block, layers, heads } = kind, size = rows * columns, self = kind.queries === kind.keys;
      kind.bytes ??= kind.maps.map(decoded);
      const queries = data.tokens[kind.queries].shown, keys = data.tokens[kind.keys].shown;
      const first = Math.min(queries.length - 1, 80);
      let layer = 0, head = 0, weights = null, most = 1, chosen = null;
      const near = (tokens, index) => {
        if (block === 1) return `${quoted(tokens[index])} (${index + 1})`;
        const first = index * block, last = Math.min(tokens.length, first + block);
        return `tokens ${first + 1} to ${last}, ${quoted(tokens[first])} … ${quoted(tokens[last - 1])}`;
      };

      const layerPick = el("select", { "aria-label": "Layer", onchange: () => set(layerPick.selectedIndex, head) }, layers.map((index) => el("option", {}, String(index))));
      const headPick = el("select", { "aria-label": "Head", onchange: () => set(layer, headPick.selectedIndex) }, [...heads.map((index) => el("option", {}, String(index))), el("option", {}, "the mean of all")]);
      const queryLine = line(queries, self ? "Tokens of the text" : "Tokens that the decoder has read: each looks at the encoder’s", (index, said) => select(index, self ? index : null, said));
      const keyLine = self ? queryLine : line(keys, "Tokens of the encoder’s text", (index, said) => select(null, index, said));
      const out = el("div"), back = el("div"), canvas = el("canvas", { role: "img" }), caption = el("p", { class: "caption" });
      const legend = el("div", { class: "legend" }), small = el("canvas"), thumbs = [];
      const grid = el("div", { class: "heads", role: "radiogroup", "aria-label": "All heads: a row a layer, a column a head" }, el("span", {}, "head"), heads.map((index) => el("span", {}, String(index))));
      grid.style.setProperty("--count", heads.length);
      layers.forEach((name, row) => {
        grid.append(el("span", {}, `layer ${name}`));
        heads.forEach((other) => thumbs.push(grid.appendChild(el("button", { type: "button", role: "radio", "aria-checked": "false", "aria-label": `Layer ${name}, head ${other}` }, el("canvas", { "aria-hidden": "true" })))));
      });
      const toThumb = roving(thumbs, (index) => set(Math.floor(index / heads.length), index % heads.length), heads.length);

      body.replaceChildren(...[...words(kind).map((word) => el("p", { class: "word" }, word)),
        el("div", { class: "row" }, which, el("label", {}, "Layer", layerPick), el("label", {}, "Head", headPick)),
        self ? null : el("h3", {}, "The decoder’s tokens"), queryLine.root, ...(self ? [] : [el("h3", {}, "The encoder’s tokens"), keyLine.root]),
        el("div", { class: heads.length > 6 ? "figure many" : "figure" }, el("div", { class: "frame" }, canvas, legend, caption), el("div", {}, el("h3", {}, "All heads"), grid)), el("div", { class: "pair" }, out, back)].filter(Boolean));
      canvas.addEventListener("mousemove", (event) => {
        const box = canvas.getBoundingClientRect(), { left, top, width, height } = canvas.frame;
        const column = Math.floor(((event.clientX - box.left - left) / width) * columns), row = Math.floor(((event.clientY - box.top - top) / height) * rows);
        if (row < 0 || column < 0 || row >= rows || column >= columns) return;
        select(row * block, self ? row * block : null, false);
        caption.textContent = `${near(queries, row)} gives ${near(keys, column)} ${percent(weights[row * columns + column])} of its attention.`;
      });

      function set(newLayer, newHead) {
        [layer, head] = [newLayer, newHead];
        layerPick.selectedIndex = layer;
        headPick.selectedIndex = head;
        const bytes = kind.bytes[layer], from = head < heads.length ? [head] : heads.map((_, index) => index);
        weights = new Float32Array(size);
        for (const one of from) for (let index = 0; index < size; index++) weights[index] += (bytes[one * size + index] / 255) ** 2 / from.length;
        most = weights.reduce((a, b) => Math.max(a, b), 1e-9);
        const name = kind.name.replace("{}", layers[layer]), get = kind.steps > 1 ? "t.stitched(name)" : "t[name]";
        code.write(`${data.code.trace}\nname = "${name}"\nweights = ${get}\nweights[${data.row}${head < heads.length ? `, ${heads[head]}]` : "].mean(0)"}  # (queries, keys)`);
        thumbs.forEach((thumb, index) => thumb.setAttribute("aria-checked", String(index === layer * heads.length + head)));
        if (head < heads.length) toThumb(layer * heads.length + head);
        canvas.setAttribute("aria-label", `Heatmap of the attention weights of layer ${layers[layer]}, ${head < heads.length ? `head ${heads[head]}` : "mean of all heads"}; the tables say the same of the token chosen`);
        legend.replaceChildren(el("span", { class: "whole" }, "0 %"), el("i", { "aria-hidden": "true" }), `${percent(most)}, the greatest here; a token’s row is its query, the columns are keys`);
        paint();
        select(...(chosen ?? [first, self ? first : null]), false);
      }

      // The one token chosen: as a query it looks at others, as a key it is looked at.
      function select(query, key, said) {
        chosen = [query, key];
        const row = query === null ? null : Math.floor(query / block), column = key === null ? null : Math.floor(key / block);
        const gives = (index) => row === null ? 0 : weights[row * columns + index], gets = (index) => column === null ? 0 : weights[index * columns + column];
        const ofRow = row === null ? [] : ranked(columns, gives), ofColumn = column === null ? [] : ranked(rows, gets);
        const top = Math.max(1e-9, ...ofRow.slice(0, 1).map(([, weight]) => weight));
        keyLine.shade("--a", (index) => gives(Math.floor(index / block)) / top);
        queryLine.shade("--b", (index) => Math.sqrt(gets(Math.floor(index / block))));
        queryLine.mark(query ?? -1);
        if (!self) keyLine.mark(key ?? -1);
        out.replaceChildren(...(row === null ? [] : [list(`${near(queries, row)} looks at`, ofRow, keys)]));
        back.replaceChildren(...(column === null ? [] : [list(`${near(keys, column)} is looked at by`, ofColumn, queries)]));
        caption.textContent = "Point at a cell to read its weight.";
        frame(row, column);
        if (said) {
          const few = (found, tokens) => found.slice(0, 3).map(([index, weight]) => `${near(tokens, index)} ${percent(weight)}`).join(", ") || "nothing";
          say([row === null ? null : `${near(queries, row)} looks at ${few(ofRow, keys)}.`, column === null ? null : `${near(keys, column)} is looked at by ${few(ofColumn, queries)}.`].filter(Boolean).join(" "));
        }
      }
      function list(title, found, tokens) {
        const rows = found.slice(0, 6).map(([index, weight]) => el("tr", {}, el("th", { scope: "row", class: "mono" }, near(tokens, index)), share(weight)));
        return table(title, ["Token", "#Share"], rows.length ? rows : [el("tr", {}, el("td", { colspan: 2 }, "Nothing above 0.1 %."))]);
      }

      // The large map, with the tokens beside it where they have room
      function paint() {
        pixels(small, rows, columns, (index) => Math.round(Math.sqrt(weights[index] / most) * 255));
        frame(...(chosen ?? [null, null]).map((index) => index === null ? null : Math.floor(index / block)));
      }
      function frame(row, column) {
        const width = canvas.parentElement.clientWidth || 480, dense = devicePixelRatio || 1, pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
        const fits = block === 1 && Math.max(rows, columns) * 12 <= width - 124;
        const left = fits ? 84 : 34, top = fits ? 66 : 22, cell = Math.min((width - left - (fits ? 36 : 12)) / columns, 40);
        const across = cell * columns, down = Math.min(cell * rows, width * 1.4);
        canvas.frame = { left, top, width: across, height: down };
        canvas.width = width * dense;
        canvas.height = (top + down + 1) * dense;
        pen.scale(dense, dense);
        pen.imageSmoothingEnabled = false;
        pen.drawImage(small, left, top, across, down);
        pen.font = "11px ui-monospace, Menlo, Consolas, monospace";
        pen.textBaseline = "middle";
        const cut = (token) => token.length > 11 ? `${token.slice(0, 10)}…` : token;
        const tone = (on) => { pen.fillStyle = style.getPropertyValue(on ? "--mark" : "--soft"); pen.font = pen.font.replace(/^(bold )?/, on ? "bold " : ""); };
        const steps = (count) => fits ? Array.from({ length: count }, (_, index) => index) : [0, 1, 2, 3].map((quarter) => Math.floor((count * quarter) / 4));
        for (const index of new Set(steps(rows))) {
          tone(index === row);
          pen.textAlign = "right";
          pen.fillText(fits ? cut(queries[index]) : String(index * block + 1), left - 6, top + (index + 0.5) * (down / rows));
        }
        for (const index of new Set(steps(columns))) {
          tone(index === column);
          pen.save();
          pen.translate(left + (index + 0.5) * cell, top - 6);
          if (fits) pen.rotate(-Math.PI / 3);
          pen.textAlign = "left";
          pen.fillText(fits ? cut(keys[index]) : String(index * block + 1), 0, 0);
          pen.restore();
        }
        pen.strokeStyle = style.getPropertyValue("--mark");
        pen.lineWidth = 1.5;
        if (row !== null) pen.strokeRect(left, top + row * (down / rows), across, Math.max(2, down / rows));
        pen.strokeStyle = style.getPropertyValue("--second");
        if (column !== null) pen.strokeRect(left + column * cell, top, Math.max(2, cell), down);
      }
      function drawThumbs() {
        thumbs.forEach((thumb, index) => {
          const bytes = kind.bytes[Math.floor(index / heads.length)], start = (index % heads.length) * size;
          let top = 1;
          for (let cell = 0; cell < size; cell++) if (bytes[start + cell] > top) top = bytes[start + cell];
          pixels(thumb.firstChild, rows, columns, (cell) => (bytes[start + cell] * 255 / top) | 0);
        });
      }
      redraw = () => { paint(); drawThumbs(); };
      set(0, 0);
      setTimeout(drawThumbs);
    }
  }
  const ranked = (count, weight) => Array.from({ length: count }, (_, index) => [index, weight(index)]).filter(([, value]) => value >= 0.001).sort((a, b) => b[1] - a[1]);
  function words(kind) {
    const said = [];
    if (kind.block > 1) said.push(`The text is long: a cell stands for ${kind.block} × ${kind.block} tokens, the sum over the keys and the mean over the queries. For every token by itself, make the page of fewer maps, with layers= and heads=.`);
    if (kind.layers.length < kind.all_layers || kind.heads.length < kind.all_heads) said.push(`Of ${kind.all_layers} layers ${kind.layers.length} are here, and of ${kind.all_heads} heads ${kind.heads.length}; layers= and heads= choose others.`);
    return said;
  }

  // The logit lens: a window of the table, as a grid to walk in

  function showLens() {
    const view = shown("lens", "Logit lens"), { layers, tokens, words, start: first, count } = data.lens, wide = 8;
    const cells = (layer, position) => data.lens.cells[layer][position].map(([word, chance]) => [words[word], chance]);
    let start = 0;
    const holder = el("div"), detail = el("div"), where = el("span", { role: "status" });
    const move = (step) => { start = Math.max(0, Math.min(tokens.length - wide, start + step)); draw(); };
    if (tokens.length > wide) {
      view.append(el("div", { class: "row" }, el("button", { type: "button", onclick: () => move(-wide) }, "Earlier tokens"), el("button", { type: "button", onclick: () => move(wide) }, "Later tokens"), where));
    }
    if (first) view.prepend(el("p", { class: "word" }, `The text is long: the last ${tokens.length} of its ${count} tokens are here.`));
    view.append(holder, detail);
    margin("lens", data.code.lens, data.where.lens);
    start = Math.max(0, tokens.length - wide);
    draw();

    function draw() {
      const seen = tokens.slice(start, start + wide), tds = [];
      where.textContent = `Tokens ${first + start + 1} to ${first + start + seen.length} of ${count}`;
      const body = layers.map((name, layer) => el("tr", {}, el("th", { scope: "row" }, name), seen.map((_, index) => {
        const [token, chance] = cells(layer, start + index)[0], td = el("td", { role: "gridcell", "aria-selected": "false" }, token, el("small", {}, percent(chance)));
        td.style.setProperty("--a", chance);
        tds.push(td);
        return td;
      })));
      holder.replaceChildren(el("div", { class: "scroll" }, el("table", { class: "lens", role: "grid" }, el("caption", {}, "The likeliest next token after each layer"),
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "after"), seen.map((token) => el("th", { scope: "col", class: "mono" }, token)))), el("tbody", {}, body))));
      const at = roving(tds, choose, seen.length);
      at(tds.length - 1);
      choose(tds.length - 1, false);
      function choose(index, said) {
        tds.forEach((td, other) => td.setAttribute("aria-selected", String(other === index)));
        const layer = Math.floor(index / seen.length), position = start + (index % seen.length), found = cells(layer, position);
        const title = `After ${layers[layer]}, ${quoted(tokens[position])} (${first + position + 1}) would be followed by`;
        detail.replaceChildren(table(title, ["Token", "#Probability"], found.map(([token, chance]) => el("tr", {}, el("th", { scope: "row", class: "mono" }, token), share(chance)))));
        detail.className = "small";
        if (said) say(`${title} ${found.slice(0, 3).map(([token, chance]) => `${quoted(token)} ${percent(chance)}`).join(", ")}.`);
      }
    }
  }

  // The generation

  function showGeneration() {
    const view = shown("generation", "Generation"), { steps, settings, count, finish } = data.generation;
    const detail = el("div"), tokens = steps.map((step) => step.token);
    const words = line(tokens, "Tokens as they were written", choose);
    if (steps.length < count) view.append(el("p", { class: "word" }, `The first ${steps.length} of ${count} tokens are here.`));
    view.append(data.text ? el("p", { class: "caption" }, `After ${quoted(data.text.length > 160 ? `…${data.text.slice(-160)}` : data.text)}:`) : "", words.root, detail, el("details", {}, el("summary", {}, "Settings that were given"), table("Settings", ["Name", "Value", "From"],
      settings.map((setting) => el("tr", {}, el("th", { scope: "row", class: "mono" }, setting.name), el("td", { class: "mono" }, setting.value), el("td", {}, setting.source))))));
    margin("generation", data.code.generation, data.where.generation);
    choose(0, false);

    function choose(index, said) {
      words.mark(index);
      const step = steps[index], acted = step.stages.map((stage, place) => [stage, place + 1]).filter(([stage]) => stage.changed);
      const chance = step.how === "sampled" ? `drawn with ${percent(step.probability)}, number ${step.rank} of ${number(step.possible)} that could have come` : `the likeliest, with ${percent(step.probability)}`;
      const title = `Step ${index + 1}: ${quoted(step.token)}, ${chance}`;
      const rows = step.candidates.map((one) => el("tr", one.chosen ? { class: "chosen" } : {}, el("td", {}, one.chosen ? "chosen" : ""), el("th", { scope: "row", class: "mono" }, one.token), el("td", { class: "number" }, one.logit.toFixed(2)),
        [0, ...acted.map(([, place]) => place)].map((place) => one.shares[place] > 0 ? share(one.shares[place]) : el("td", { class: "number none" }, place ? "ruled out" : "0 %"))));
      detail.replaceChildren(table(title, ["", "Candidate", "#Score", "#By the model", ...acted.map(([stage]) => `#After ${stage.name.replace(/Logits(Warper|Processor)$/, "")}`)], rows),
        el("ol", { class: "caption" }, step.stages.map((stage) => el("li", {}, `${stage.name}${stage.settings ? ` (${stage.settings})` : ""}: ${[[stage.changed - stage.forbidden, "changed the score of"], [stage.forbidden, "ruled out"]].filter(([many]) => many).map(([many, what]) => `${what} ${number(many)} token${many === 1 ? "" : "s"}`).join(" and ") || "changed nothing"}.`))),
        index === count - 1 && finish ? el("p", { class: "caption" }, `Here the text ended: ${finish}.`) : "");
      if (said) say(`${title}. Others: ${step.candidates.filter((one) => !one.chosen).slice(0, 3).map((one) => `${quoted(one.token)} ${percent(one.shares.at(-1))}`).join(", ")}.`);
    }
  }

  // What the scores came to, of a text or of each of its tokens

  function showChoices() {
    const view = shown("choices", "Choice"), { choices } = data, detail = el("div", { class: "small" });
    const places = line(choices.map((choice) => choice.where), "What was chosen for", choose, choices.map((choice) => choice.labels[0]));
    view.append(choices.length > 1 ? places.root : "", detail);
    margin("choices", data.code.choices, data.where.choices);
    choose(0, false);

    function choose(index, said) {
      places.mark(index);
      const { where, labels, shares } = choices[index];
      detail.replaceChildren(table(choices.length > 1 ? `${quoted(where)} (${index + 1})` : where, ["Candidate", "#Probability"], labels.map((label, place) => el("tr", {}, el("th", { scope: "row", class: "mono" }, label), share(shares[place])))));
      if (said) say(`${quoted(where)}: ${labels.slice(0, 3).map((label, place) => `${quoted(label)} ${percent(shares[place])}`).join(", ")}.`);
    }
  }

  // The story

  function showStory() {
    const view = shown("story", "Every tensor"), total = data.story.reduce((sum, chapter) => sum + chapter.lines.length, 0);
    const made = [], count = el("span", { role: "status" });
    const filter = el("input", { type: "search", "aria-label": "Find by name or meaning", oninput: () => {
      const wanted = filter.value.trim().toLowerCase();
      let found = 0;
      for (const [details, rows] of made) {
        const here = rows.filter(([row, text]) => { row.hidden = !text.includes(wanted); return !row.hidden; }).length;
        details.hidden = !here;
        if (wanted) details.open = here > 0;
        found += here;
      }
      count.textContent = `${found} of ${total} tensors`;
    } });
    const holder = el("div", { class: "story" });
    for (const { title, lines: rows } of data.story) {
      const trs = rows.map((row) => {
        const lines = `t["${row.name}"]`, button = el("button", { type: "button", "aria-label": `Copy ${lines}`, onclick: () => copy(lines, button) }, "Copy t[…]");
        const tr = el("tr", {}, el("th", { scope: "row" }, el("span", { class: "mono name" }, row.name), row.meaning), el("td", {}, el("span", { class: "mono name" }, row.shape), row.look),
          el("td", {}, el("code", { class: "mono name" }, row.code), row.place ? el("span", { class: "mono none" }, `${row.place} `) : null, button));
        return [tr, `${row.name} ${row.meaning}`.toLowerCase()];
      });
      const details = el("details", made.length ? {} : { open: "" }, el("summary", {}, `${title} (${rows.length})`), table(`Tensors: ${title}`, ["Name and meaning", "Shape and values", "The line that computes it"], trs.map(([tr]) => tr)));
      made.push([details, trs]);
      holder.append(details);
    }
    count.textContent = `${total} tensors`;
    if (data.unlinked) view.append(el("p", { class: "word" }, "The attention weights that were recorded are not of all tokens of one text, so that they stand in this list only."));
    view.append(el("div", { class: "row" }, el("label", {}, "Find by name or meaning", filter), count), holder);
    margin("story", data.code.story, data.where.story);
  }

  // The whole

  $("title").textContent = data.title;
  $("model").textContent = data.model;
  $("lead").textContent = data.facts;
  document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); });
  if (Object.keys(data.tokens).length) showTokens();
  if (data.attention) showAttention();
  if (data.structure) showStructure();
  if (data.lens) showLens();
  if (data.generation?.steps.length) showGeneration();
  if (data.choices) showChoices();
  if (data.story.length) showStory();
  const again = () => { palette = null; redraws.forEach((redraw) => redraw()); };
  theme.addEventListener("change", again);
  addEventListener("resize", () => { clearTimeout(again.later); again.later = setTimeout(again, 150); });
  addEventListener("beforeprint", () => { document.documentElement.classList.add("printed"); document.querySelectorAll("details").forEach((one) => { one.open = true; }); again(); });
  addEventListener("afterprint", () => { document.documentElement.classList.remove("printed"); again(); });
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})();
