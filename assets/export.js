// Take away: files from the server, figures and tables from the page, commands, and a report
// that works from disk. Pictures carry their parameters in a text chunk, SVG in its metadata.
(window.slugParts ??= []).push((slug) => {
  const {make, acts, draw, dialog, table, small, values, calls, percent} = slug;
  const facts = () => JSON.stringify({made_by: 'slugdemo', ...values.export?.facts});
  const named = (what) => `${values.export?.name ?? 'slugdemo'}-${what}`;

  function give(blob, name) {
    const link = make('a', {href: URL.createObjectURL(blob), download: name});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 2000);
  }

  // ---- PNG with a text chunk
  const CRC = Uint32Array.from({length: 256}, (_, n) => { let c = n; for (let k = 0; k < 8; k += 1) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1; return c >>> 0; });
  const crc = (bytes) => (bytes.reduce((c, byte) => CRC[(c ^ byte) & 255] ^ (c >>> 8), 0xffffffff) ^ 0xffffffff) >>> 0;
  function chunk(type, data) {
    const bytes = new Uint8Array(12 + data.length);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, data.length);
    bytes.set(new TextEncoder().encode(type), 4);
    bytes.set(data, 8);
    view.setUint32(8 + data.length, crc(bytes.subarray(4, 8 + data.length)));
    return bytes;
  }
  async function stamped(blob) {
    const png = new Uint8Array(await blob.arrayBuffer());
    const text = new TextEncoder().encode(`parameters\0\0\0\0\0${facts()}`);   // iTXt: keyword, not packed, no language
    return new Blob([png.subarray(0, 33), chunk('iTXt', text), png.subarray(33)], {type: 'image/png'});
  }

  // ---- figures
  async function image(name, format) {
    const box = document.querySelector(`#${name} .plot`);
    const layout = {...box.layout, width: box.clientWidth, height: box.clientHeight,
      paper_bgcolor: getComputedStyle(document.body).getPropertyValue('--card').trim()};
    const address = await Plotly.toImage({data: box.data, layout}, {format, scale: format === 'png' ? 2 : 1, width: box.clientWidth, height: box.clientHeight});
    return address;
  }
  async function figure(name, format) {
    const address = await image(name, format);
    if (format === 'png') { give(await stamped(await packed(address)), `${named(name)}.png`); return; }
    const note = document.createElement('metadata');
    note.textContent = facts();
    const text = decodeURIComponent(address.slice(address.indexOf(',') + 1)).replace(/(<svg[^>]*>)/, (open) => `${open}${note.outerHTML}`);
    give(new Blob([text], {type: 'image/svg+xml'}), `${named(name)}.svg`);
  }
  const packed = async (address) => {
    const [head, data] = address.split(',');
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    return new Blob([bytes], {type: head.slice(5).split(';')[0]});
  };
  acts.figure = (name) => ['svg', 'png'].map((format) => small(format.toUpperCase(), `Save the plot as ${format.toUpperCase()}`, () => figure(name, format)));

  async function canvas(rows) {
    const shown = await Promise.all(rows.flat().map(async (src) => { const picture = new Image(); picture.src = src; await picture.decode(); return picture; }));
    const [wide, high, gap] = [shown[0].naturalWidth, shown[0].naturalHeight, 4];
    const made = make('canvas', {width: rows[0].length * (wide + gap) - gap, height: rows.length * (high + gap) - gap});
    const pen = made.getContext('2d');
    shown.forEach((picture, i) => pen.drawImage(picture, (i % rows[0].length) * (wide + gap), Math.floor(i / rows[0].length) * (high + gap)));
    return new Promise((done) => made.toBlob(done, 'image/png'));
  }
  const pictures = async (rows, name) => give(await stamped(await canvas(rows)), `${named(name)}.png`);

  // ---- tables
  const TABLES = {
    layers: () => [['layer', 'tower', 'importance', 'alignment', 'numbers', 'front', 'tensor'],
      ...values.map.rows.map((row) => [row.name, row.tower, row.importance, row.alignment, row.params, row.front ? 'yes' : row.why, row.layer])],
    steps: () => [['step', 'of the concept', 'of everything else'], ...values.curve.rows],
    ladder: () => [['what', 'role', ...values.ladder.steps.map((step) => (step ? percent(step) : 'before'))], ...slug.rungs_rows(values.ladder)],
    collateral: () => [['concept', 'before', 'after', 'pictures'], ...['forget', 'retain'].map((side) => [side, ...values.collateral[side]]),
      ...values.collateral.rows.map((row) => [row.name, row.before, row.after, row.n])],
    comparison: () => [['control', 'where', 'forget', 'retain'], ...values.comparison.rows.map((row) => [row.name, row.where,
      ...[row.forget, row.retain].map(([share, low, high, n]) => `${percent(share)} (${percent(low)} to ${percent(high)}, n = ${n})`)])],
  };
  const known = () => Object.keys(TABLES).filter((name) => values[{layers: 'map', steps: 'curve'}[name] ?? name]);

  // ---- the report: one file, no script, no network
  const CSS = `body{font:15px/1.5 system-ui,sans-serif;max-width:860px;margin:32px auto;padding:0 16px;color:#1d2125}
h1{font-size:26px;margin:0}h2{font-size:18px;margin:32px 0 8px}table{border-collapse:collapse;font-size:13px}td,th{text-align:left;padding:3px 12px 3px 0;border-bottom:1px solid #e6e5e0}
img{max-width:100%}td img{width:64px;height:64px;image-rendering:auto;display:block;border-radius:4px}.pair img{width:200px;height:200px;border-radius:8px;margin-right:12px}pre{background:#f5f4f0;padding:12px;border-radius:8px;white-space:pre-wrap;overflow-wrap:anywhere}small,.note{color:#596069}`;
  async function report() {
    const away = values.export;
    const part = (title, ...inside) => [make('h2', {}, title), ...inside];
    const rows = (name) => { const [head, ...rest] = TABLES[name](); return table(head, rest.map((row) => row.map((cell) => (typeof cell === 'number' && !Number.isInteger(cell) ? cell.toPrecision(4) : cell)))); };
    const plot = async (name, text) => make('img', {src: await image(name, 'svg'), alt: text});
    const see = values.see;
    const shown = see.kind === 'diffusion'
      ? [make('p', {class: 'pair'}, make('img', {src: see.before.src, alt: `before: ${see.before.text}`}), make('img', {src: see.after.src, alt: `after: ${see.after.text}`})),
        make('p', {}, `“${see.prompt}”, seed ${away.facts.seed}: before ${see.before.text}, after ${see.after.text}.`)]
      : [make('p', {class: 'pair'}, make('img', {src: see.pictures[see.chosen].src, alt: see.pictures[see.chosen].alt})),
        see.bars ? table(['class', 'before', 'after'], see.bars.map((row) => [row.name, percent(row.before), percent(row.after)]))
          : table(['', 'answer'], [['question', see.question], ['before', see.answers[0]], ['after', see.answers[1]]])];
    const ladder = make('table', {}, make('tr', {}, ...['', ...values.ladder.steps.map((step) => (step ? percent(step) : 'before'))].map((title) => make('th', {}, title))),
      ...values.ladder.rows.map((row) => make('tr', {}, make('th', {}, `${row.name} (${row.role})`), ...row.cells.map((cell) => make('td', {}, cell.src ? make('img', {src: cell.src, alt: cell.text}) : '', cell.text)))));
    const page = make('main', {}, make('h1', {}, `Forgetting “${away.facts.concept}” in ${away.facts.model}`),
      make('p', {class: 'note'}, 'Made with slugdemo. The models are small ones for teaching: nothing is claimed about models of full size.'),
      table(['what', 'is'], Object.entries(away.facts).map(([key, value]) => [key, Array.isArray(value) ? value.join('; ') : String(value)])),
      ...part('Which layer holds it?', await plot('map', values.map.described), make('p', {}, values.map.described), rows('layers')),
      ...part('The formula with its numbers', table(['what', 'formula', 'here'], values.curve.sum)),
      ...part('How far should we go?', await plot('curve', values.curve.described), make('p', {}, values.curve.described), rows('steps'), ladder),
      ...part('What does it do now?', ...shown, rows('collateral')),
      ...(values.comparison ? part('Is that better than chance?', rows('comparison')) : []),
      ...(away.python ? part('Make it again', make('pre', {}, away.python), make('pre', {}, away.shell)) : []));
    const policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src \'unsafe-inline\'">';
    const title = make('title', {}, `slugdemo: ${away.facts.concept} in ${away.facts.model}`).outerHTML;
    return `<!doctype html><html lang="en"><head><meta charset="utf-8">${policy}${title}<style>${CSS}</style></head><body>${page.outerHTML}</body></html>`;
  }

  // ---- the sheet
  acts.away = () => {
    const away = values.export;
    if (!away?.facts) { slug.say('Choose a layer first: there is nothing to take away yet.'); return; }
    const line = (title, note, ...buttons) => make('section', {class: 'line-of'}, make('h3', {}, title, make('small', {}, note)), make('p', {}, ...buttons));
    const code = (text, said) => [make('pre', {tabindex: '0'}, text), small('Copy', `Copy ${said}`, () => slug.copy(text, `The ${said} is copied.`))];
    const fetch = (data) => { box.close(); calls.export.fetch(data); };
    const shown = values.see;
    const box = dialog('Take it away',
      line('Edit', 'a small file; drop it on the page to get the edit back', small('safetensors', 'Download the edit', () => fetch({}))),
      line('Edited model', 'with every edit that is on, in its own format', ...away.models.map((model) => small(`${model.format} · ${model.name} · ${model.size}`, `Download ${model.name}`, () => fetch({model: model.name})))),
      line('Report', 'everything on this page in one file that needs no network', small('HTML', 'Save the report', async () => give(new Blob([await report()], {type: 'text/html'}), `${named('report')}.html`))),
      line('Figures', 'PNG and SVG carry their parameters', make('span', {}, 'layers '), ...acts.figure('map'), make('span', {}, ' curve '), ...acts.figure('curve'),
        ...(shown.kind === 'diffusion' ? [small('before and after', 'Save before and after as PNG', () => pictures([[shown.before.src, shown.after.src]], 'before-after')),
          small('ladder', 'Save the ladder as PNG', () => pictures(values.ladder.rows.map((row) => row.cells.map((cell) => cell.src)), 'ladder'))] : [])),
      line('Tables', 'CSV', ...known().map((name) => small(name, `Save ${name} as CSV`, () => slug.save(`${named(name)}.csv`, TABLES[name]())))),
      away.own ? make('p', {}, 'Pictures of your own stay on this page, so no command can make this edit again: take the edit itself.')
        : make('section', {class: 'line-of'}, make('h3', {}, 'Make it again'), ...code(away.shell, 'shell command'), ...code(away.python, 'Python snippet')),
      line('Link', 'holds all that you see', small('Copy link', 'Copy the link', acts.link)));
  };
  acts.report = report;
  draw.export = () => {};
});
