// The page's own widgets. Each draws one block from a plain value that Python sends; all text goes
// in by textContent. Colours are CSS variables, so plots follow light, dark and the projector.
window.slug = (() => {
  const painted = new Map();           // plot element -> how to paint it again
  const calm = () => matchMedia('(prefers-reduced-motion: reduce)').matches;
  const percent = (x) => (x > 0 && x < 0.005 ? '<1 %' : `${Math.round(100 * x)} %`);

  const count = (n) => (n === 1 ? '1 picture' : `${n} pictures`);

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (key === 'on') node.addEventListener('click', value);
      else if (key === 'style') Object.entries(value).forEach(([k, v]) => node.style.setProperty(k, v));
      else node.setAttribute(key, value === true ? '' : value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  // ---- plots
  function coloured(value) {
    const css = getComputedStyle(document.body);
    const walk = (one) => {
      if (typeof one === 'string' && one.startsWith('--')) return css.getPropertyValue(one).trim() || '#888';
      if (Array.isArray(one)) return one.map(walk);
      if (one && typeof one === 'object') return Object.fromEntries(Object.entries(one).map(([k, v]) => [k, walk(v)]));
      return one;
    };
    return walk(value);
  }
  const stage = () => document.body.classList.contains('stage');
  function larger(figure) {
    if (!stage()) return figure;
    const grow = (one) => {
      if (Array.isArray(one)) return one.map(grow);
      if (!one || typeof one !== 'object') return one;
      return Object.fromEntries(Object.entries(one).map(([k, v]) => [k,
        k === 'size' && typeof v === 'number' ? v * 1.35 : k === 'width' && typeof v === 'number' ? v * 1.5 : grow(v)]));
    };
    const grown = grow(figure);
    const margin = grown.layout.margin;
    if (margin) Object.assign(margin, {l: margin.l * 1.3, b: margin.b * 1.3, t: margin.t * 1.3, r: margin.r * 1.5});
    return grown;
  }
  function plot(box, figure, label, pick) {
    const config = {responsive: true, displayModeBar: false, showSendToCloud: false, displaylogo: false};
    box.setAttribute('aria-label', label);
    const paint = () => {
      if (!window.Plotly) { setTimeout(paint, 60); return; }
      const ready = larger(coloured(figure));
      const hand = box.nextElementSibling;
      if (hand?.matches('.hand')) hand.style.padding = `0 ${ready.layout.margin.r - 8}px 0 ${ready.layout.margin.l - 8}px`;
      Plotly.react(box, ready.data, ready.layout, config).then(() => {
        if (box.clientWidth && Math.abs(box.clientWidth - box._fullLayout.width) > 1) Plotly.Plots.resize(box);
        if (!box.heard) { box.heard = true; box.on('plotly_click', (event) => box.pick(event)); }
      });
    };
    box.pick = pick;
    painted.set(box, paint);
    paint();
  }
  const repaint = () => painted.forEach((paint) => paint());

  // ---- dialogs
  function dialog(title, ...content) {
    const close = make('button', {class: 'plain', 'aria-label': 'Close', on: () => box.close()}, '✕');
    const box = make('dialog', {class: 'slug-dialog', 'aria-label': title},
      make('header', {}, make('h2', {}, title), close), make('div', {class: 'inside'}, ...content));
    box.addEventListener('close', () => box.remove());
    box.addEventListener('click', (event) => { if (event.target === box) box.close(); });
    (document.querySelector('.gradio-container') || document.body).append(box);
    box.showModal();
    return box;
  }
  function table(head, rows, pick) {
    const lines = rows.map((cells) => make('tr', {}, ...cells.map((cell, i) => {
      if (i || !pick) return make('td', {}, String(cell));
      return make('td', {}, make('button', {class: 'link', on: () => pick(cells)}, String(cell)));
    })));
    return make('table', {}, make('thead', {}, make('tr', {}, ...head.map((one) => make('th', {scope: 'col'}, one)))),
      make('tbody', {}, ...lines));
  }
  function save(name, rows) {
    const quoted = rows.map((row) => row.map((cell) => `"${String(cell).replaceAll('"', '""')}"`).join(','));
    const link = make('a', {href: URL.createObjectURL(new Blob([quoted.join('\n')], {type: 'text/csv'})), download: name});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  const picture = (box, name) => Plotly.downloadImage(box, {format: 'svg', filename: name});
  const small = (text, label, on) => make('button', {class: 'small', 'aria-label': label, on}, text);

  // ---- blocks
  const draw = {};

  draw.status = (body, value) => {
    const share = value.share;
    const busy = value.tone === 'busy';
    body.replaceChildren(
      make('span', {class: `dot ${value.tone}`, 'aria-hidden': 'true'}),
      make('span', {class: 'said', role: 'status', title: value.text}, value.text, value.text.length > 90 ? more(value.text) : ''),
      make('span', {class: `meter ${share === null ? 'none' : ''}`, 'aria-hidden': 'true'},
        make('i', {style: {width: `${100 * (share ?? 0)}%`}})));
    document.body.classList.toggle('busy', busy);
    if (value.query !== undefined && value.query !== null) {
      const extra = new URLSearchParams(location.search).get('__theme');
      history.replaceState(null, '', `?${value.query}${extra ? `&__theme=${extra}` : ''}`);
    }
  };

  const more = (text) => make('button', {class: 'more', 'aria-label': 'Read all of it', on: () => dialog('What was found', make('p', {}, text))}, 'more');

  draw.forget = (body, value) => {
    body.replaceChildren(...value.groups.map((group) => make('div', {class: `group ${group.role}`},
      make('h3', {}, make('span', {}, group.title), make('small', {}, count(group.count))),
      make('ul', {class: 'thumbs'}, ...group.pictures.map((one) =>
        make('li', {}, make('img', {src: one.src, alt: one.alt, title: one.alt})))))));
  };

  draw.map = (body, value, call) => {
    let box = body.querySelector('.plot');
    if (!box) {
      box = make('div', {class: 'plot', tabindex: '0', role: 'img'});
      body.append(box, make('div', {class: 'strip', role: 'group', 'aria-label': 'One slot for each layer'}));
      box.addEventListener('keydown', (event) => walk(event, body));
    }
    body.value = value;
    body.choose = (layer) => call.layer({layer});
    body.turn = () => call.turn({});
    plot(box, value.figure, value.described, (event) => {
      const data = event.points[0].customdata;
      if (data) call.layer({layer: data[0]});
    });
    strip(body, value, call);
  };
  function walk(event, body) {
    const way = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (!way) return;
    event.preventDefault();
    const front = body.value.front;
    const at = front.indexOf(body.value.selected);
    body.choose(front[(at + way + front.length) % front.length]);
  }
  function strip(body, value, call) {
    const towers = [...new Set(value.rows.map((row) => row.tower))].sort();
    body.querySelector('.strip').replaceChildren(...towers.map((tower) => {
      const rows = value.rows.filter((row) => row.tower === tower);
      return make('div', {class: 'slots'}, make('span', {class: 'label'}, tower), make('div', {class: 'row'}, ...rows.map((row) => {
        const chosen = row.layer === value.selected;
        const why = row.reads ? '' : ', not read by this model';
        return make('button', {
          class: `slot ${row.front ? 'front' : ''} ${chosen ? 'chosen' : ''}`, disabled: !row.reads,
          title: `${tower} ${row.name}: importance ${row.importance.toPrecision(3)}, alignment ${row.alignment.toFixed(3)}${why}`,
          'aria-label': `${tower} ${row.name}${row.front ? ', on the front' : ''}${why}`, 'aria-pressed': String(chosen),
          tabindex: chosen ? '0' : '-1', style: {'--level': Math.sqrt(row.level)},
          on: () => call.layer({layer: row.layer}),
        }, make('i', {}));
      })));
    }));
    body.querySelectorAll('.row').forEach((row) => row.onkeydown = (event) => {
      const way = {ArrowRight: 'nextElementSibling', ArrowLeft: 'previousElementSibling'}[event.key];
      if (way && document.activeElement[way]) { event.preventDefault(); document.activeElement[way].focus(); }
    });
  }
  function layers() {
    const body = document.querySelector('#map .body');
    if (!body || !body.value) return;
    const head = ['layer', 'tower', 'importance', 'alignment', 'numbers', 'front'];
    const rows = body.value.rows.map((row) => [row.name, row.tower, row.importance.toPrecision(4), row.alignment.toFixed(4),
      row.params, row.front ? 'yes' : row.reads ? '' : 'not read', row.layer]);
    const box = dialog('Every layer', make('p', {}, body.value.described),
      make('p', {}, small('Save as CSV', 'Save the table as CSV', () => save('layers.csv', [[...head, 'tensor'], ...rows])),
        small('Save plot as SVG', 'Save the plot as SVG', () => picture(body.querySelector('.plot'), 'layers'))),
      table(head, rows.map((row) => row.slice(0, 6)), (cells) => {
        const row = rows.find((one) => one[0] === cells[0] && one[1] === cells[1]);
        body.choose(row[6]);
        box.close();
      }));
  }

  draw.curve = (body, value, call) => {
    let box = body.querySelector('.plot');
    if (!box) {
      box = make('div', {class: 'plot', role: 'img'});
      const hand = make('input', {type: 'range', min: 0, step: 0.005, id: 'step', 'aria-label': "Step, share of the layer's norm"});
      hand.addEventListener('input', () => {
        body.querySelector('.at').textContent = (+hand.value).toFixed(3);
        if (box.layout) Plotly.relayout(box, {'shapes[0].x0': +hand.value, 'shapes[0].x1': +hand.value});
      });
      hand.addEventListener('change', () => call.step({step: +hand.value}));
      body.append(box, make('div', {class: 'hand'}, hand), make('p', {class: 'formula'}, make('span', {}, 'step '), make('b', {class: 'at'}), make('span', {class: 'rest'})));
    }
    const hand = body.querySelector('#step');
    body.value = value;
    hand.max = value.farthest;
    if (document.activeElement !== hand || hand.dataset.from !== String(value.step)) hand.value = value.step;
    hand.dataset.from = String(value.step);
    plot(box, value.figure, value.described, (event) => call.step({step: event.points[0].x}));
    body.querySelector('.at').textContent = value.step.toFixed(3);
    body.querySelector('.rest').textContent = `   ${value.formula}`;
  };
  function points() {
    const body = document.querySelector('#curve .body');
    if (!body || !body.value) return;
    const head = ['step', 'of the concept', 'of everything else'];
    dialog('Along the step', make('p', {}, body.value.described),
      make('p', {}, small('Save as CSV', 'Save the table as CSV', () => save('steps.csv', [head, ...body.value.rows])),
        small('Save plot as SVG', 'Save the plot as SVG', () => picture(body.querySelector('.plot'), 'steps'))),
      table(head, body.value.rows));
  }

  let asked = 0;
  draw.compare = (body, value) => {
    if (value.asked <= asked) return;
    asked = value.asked;
    const bar = (side, [share, low, high, n]) => make('td', {}, make('span', {class: `range ${side}`, role: 'img',
      'aria-label': `${percent(share)}, 95 % interval ${percent(low)} to ${percent(high)}, ${n} pictures`},
      make('i', {style: {width: `${100 * share}%`}}), make('u', {style: {left: `${100 * low}%`, width: `${100 * (high - low)}%`}})),
      make('b', {}, percent(share)));
    const rows = value.rows.map((row) => make('tr', {class: row.name === 'SLUG' ? 'ours' : ''},
      make('th', {scope: 'row'}, row.name, make('small', {}, row.where)), bar('forget', row.forget), bar('retain', row.retain)));
    const plain = value.rows.map((row) => [row.name, row.where, ...row.forget, ...row.retain]);
    const head = ['control', 'where', ...['forget', 'retain'].flatMap((side) => [side, `${side} low`, `${side} high`, `${side} n`])];
    dialog('Compare: is that better than chance?',
      make('p', {}, `What is left of “${value.concept}” and of everything else, on the same pictures with the same judge; whiskers are 95 % intervals.`),
      make('table', {class: 'compare'}, make('thead', {}, make('tr', {}, ...['', value.concept, 'everything else'].map((one) => make('th', {scope: 'col'}, one)))), make('tbody', {}, ...rows)),
      make('p', {}, small('Save as CSV', 'Save the table as CSV', () => save('compare.csv', [head, ...plain]))));
  };

  draw.ladder = (body, value, call) => {
    const near = value.steps.reduce((best, one) => (Math.abs(one - value.step) < Math.abs(best - value.step) ? one : best), 0);
    const head = value.steps.map((step) => make('button', {class: `rung ${step === near ? 'chosen' : ''}`,
      'aria-label': `Go to step ${step}`, 'aria-pressed': String(step === near), on: () => call.step({step})}, step ? percent(step) : 'before'));
    const rows = value.rows.flatMap((row) => [
      make('div', {class: `who ${row.role === 'target' ? 'forget' : 'retain'} ${row.src ? 'shown' : ''}`},
        row.src ? make('img', {src: row.src, alt: row.name}) : null, make('b', {}, row.name), make('small', {}, row.role)),
      ...row.cells.map((cell, i) => rung(row, cell, value.steps[i] === near)),
    ]);
    body.replaceChildren(make('div', {class: `rungs ${value.kind}`, style: {'--columns': value.steps.length}},
      make('span', {class: 'corner'}, 'step'), ...head, ...rows));
  };
  function rung(row, cell, chosen) {
    const tone = cell.ok ? (row.role === 'target' ? 'forget' : 'retain') : 'gone';
    const said = cell.text ? `${cell.ok ? '' : '→ '}${cell.text}` : '';
    return make('figure', {class: `cell ${chosen ? 'chosen' : ''} ${tone}`},
      cell.src ? make('img', {src: cell.src, alt: `${row.name}: ${cell.text || 'a picture'}`}) : null,
      cell.bar ? make('span', {class: 'bar', role: 'img', 'aria-label': percent(cell.share)}, make('i', {style: {width: `${100 * cell.share}%`}})) : null,
      make('figcaption', {title: `${cell.text} ${cell.share === undefined ? '' : percent(cell.share)}`}, said));
  }

  draw.see = (body, value, call) => {
    const looks = value.pictures ? [make('div', {class: 'looks', role: 'group', 'aria-label': 'Pictures to look at'}, ...value.pictures.map((one, i) =>
      make('button', {class: `look ${one.role === 'target' ? 'forget' : 'retain'} ${i === value.chosen ? 'chosen' : ''}`, title: one.alt,
        'aria-label': one.alt, 'aria-pressed': String(i === value.chosen), on: () => call.picture({picture: i})}, make('img', {src: one.src, alt: ''}))))] : [];
    const wide = value.pictures ? make('img', {class: 'big', src: value.pictures[value.chosen].src, alt: value.pictures[value.chosen].alt}) : null;
    if (value.kind === 'zero-shot') body.replaceChildren(...looks, make('div', {class: 'pair'}, wide, bars(value.bars)));
    if (value.kind === 'vlm') body.replaceChildren(...looks, make('div', {class: 'pair'}, wide, answers(value)));
    if (value.kind === 'diffusion') wipe(body, value);
  };
  function bars(rows) {
    return make('div', {class: 'bars'}, make('div', {class: 'legend'}, make('span', {class: 'was'}, 'before'), make('span', {class: 'now'}, 'after')),
      ...rows.map((row) => make('div', {class: `line ${row.role}`},
        make('span', {class: 'name', title: row.name}, row.name),
        make('span', {class: 'track', role: 'img', 'aria-label': `before ${percent(row.before)}, after ${percent(row.after)}`},
          make('i', {class: 'was', style: {width: `${100 * row.before}%`}}), make('i', {class: 'now', style: {width: `${100 * row.after}%`}})),
        make('span', {class: 'number'}, percent(row.after)))));
  }
  function answers(value) {
    return make('div', {class: 'answers'}, ...['before', 'after'].map((when, i) => make('div', {class: `answer ${when}`},
      make('small', {}, when), make('p', {}, value.answers[i] || '(says nothing)'))));
  }
  function wipe(body, value) {
    const old = body.querySelector('.wipe input');
    const at = old ? old.value : 50;
    const side = (which) => make('img', {class: which, src: value[which].src, alt: `${which}: ${value[which].text || value.prompt}`});
    const slider = make('input', {type: 'range', min: 0, max: 100, value: at, 'aria-label': 'Wipe between before and after'});
    const frame = make('div', {class: 'wipe', style: {'--at': `${at}%`}}, side('after'), side('before'), make('span', {class: 'edge', 'aria-hidden': 'true'}), slider);
    slider.addEventListener('input', () => frame.style.setProperty('--at', `${slider.value}%`));
    const verdict = (which) => make('div', {class: `verdict ${which}`}, make('small', {}, which),
      value[which].text ? make('b', {}, value[which].text) : null,
      value[which].text ? make('small', {}, `judge ${percent(value[which].share)}`) : null);
    body.replaceChildren(make('div', {class: 'stand'}, verdict('before'), frame, verdict('after')));
  }

  draw.collateral = (body, value) => {
    const line = (role, name, [before, after, n]) => make('div', {class: `total ${role}`},
      make('span', {class: 'name'}, name), make('b', {}, `${percent(before)} → ${percent(after)}`), make('small', {}, count(n)));
    const rows = value.rows.filter((row) => row.after !== row.before);
    const named = rows.length ? rows.map((row) => make('li', {title: `${percent(row.before)} → ${percent(row.after)}, ${row.n} pictures`},
      make('span', {}, row.name), make('b', {}, row.change))) : [make('li', {class: 'none'}, 'No other concept changed.')];
    body.replaceChildren(
      make('div', {class: 'totals'}, line('forget', value.erased.join(', ') || 'the concept', value.forget), line('retain', 'everything else', value.retain)),
      make('h3', {}, 'What else changed most', make('small', {}, `points; ${value.unchanged} of ${value.others} did not`)),
      make('ul', {class: 'changes'}, ...named));
  };

  draw.tray = (body, value, call) => {
    const rows = value.rows.map((row, i) => make('span', {class: `chip ${row.on ? 'on' : ''}`},
      make('button', {class: 'switch', role: 'switch', 'aria-checked': String(row.on), 'aria-label': `${row.name} on or off`,
        on: () => call.switch({number: i})}, make('i', {}), row.name),
      make('button', {class: 'drop', 'aria-label': `Take out ${row.name}`, title: 'Take out', on: () => call.drop({number: i})}, '✕')));
    body.replaceChildren(make('b', {class: 'label'}, 'Tray'), ...(rows.length ? rows : [make('small', {}, 'Keep an edit to erase several concepts together.')]),
      value.note ? make('small', {class: 'note'}, value.note) : '');
  };

  // ---- the story: beats that point at the real controls and can be left at any time
  const STORY = [
    ['forget', 'These pictures are all that the model is told. Orange is what it should forget, blue what it should keep.'],
    ['locate', 'One pass over each set gives two gradients. High: the layer matters to the concept. Left: moving it leaves the rest alone.'],
    ['locate', 'No layer beats those on the dotted line in both ways. Click one of them, or walk along them with the arrow keys.'],
    ['step', 'The layer moves once, along one direction. The curves say what is left of both, with 95 % intervals.'],
    ['step', 'Drag the green handle, or let the search find the step: it doubles until the concept is gone, then halves.'],
    ['ladder', 'The same seeds at every step: the target should go, its neighbour and the stranger should stay.'],
    ['see', 'Before and after, live. Below it stands what else has changed, by name.'],
    ['step', 'Is it better than chance? Compare puts the opposite direction, a random one and a random layer beside it.'],
  ];
  function story(at) {
    document.querySelectorAll('.told').forEach((one) => one.classList.remove('told'));
    document.querySelector('.story')?.remove();
    if (at < 0 || at >= STORY.length) return;
    const [card, text] = STORY[at];
    const target = document.querySelector(`#${card}-card`);
    target.classList.add('told');
    target.scrollIntoView({block: 'nearest', behavior: calm() ? 'auto' : 'smooth'});
    const next = small(at + 1 < STORY.length ? 'Next' : 'End', 'Next beat', () => story(at + 1));
    const box = make('aside', {class: 'story slug-dialog', 'aria-live': 'polite', 'aria-label': 'Story'}, make('small', {}, `${at + 1} of ${STORY.length}`),
      make('p', {}, text), make('div', {}, small('Back', 'Beat before', () => story(at - 1)), next, small('Leave', 'Leave the story', () => story(-1))));
    const [frame, height] = [target.getBoundingClientRect(), 104];
    const below = frame.bottom + height < innerHeight;
    box.style.top = `${Math.max(8, below ? frame.bottom + 8 : frame.top > height ? frame.top - height : innerHeight - height)}px`;
    box.style.left = `${Math.min(Math.max(8, frame.left), innerWidth - Math.min(440, innerWidth - 16) - 8)}px`;
    (document.querySelector('.gradio-container') || document.body).append(box);
    next.focus({preventScroll: true});
  }

  // ---- keys
  const KEYS = [['G', 'guided story'], ['C', 'compare with controls'], ['P', 'projector on or off'], ['←  →', 'in the plot: walk along the front'], ['F', 'find the step'], ['L', 'find layer and step'],
    ['K', 'keep the edit'], ['S', 'stop'], ['T', 'table of all layers'], ['?', 'this sheet']];
  const help = () => dialog('Keys', table(['key', 'does'], KEYS));
  const press = (id) => { const button = document.querySelector(`#${id}`); (button?.matches('button') ? button : button?.querySelector('button'))?.click(); };
  function project() {
    document.body.classList.toggle('stage');
    setTimeout(repaint, calm() ? 0 : 60);
  }
  const ACTS = {p: project, '?': help, t: layers, f: () => press('find'), l: () => press('find-all'), c: () => press('controls'), g: () => story(0), Escape: () => story(-1), k: () => press('keep'), s: () => press('stop')};
  document.addEventListener('keydown', (event) => {
    const typing = event.target.closest?.('input:not([type=range]), textarea, [contenteditable], dialog');
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = ACTS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act) { event.preventDefault(); act(); }
  });
  new MutationObserver(repaint).observe(document.body, {attributeFilter: ['class'], attributes: true});

  // Until the server says more, the page says that it has heard.
  function waiting() {
    const body = document.querySelector('#status .body');
    if (body && !document.body.classList.contains('busy')) draw.status(body, {text: 'Asked; waiting for a free place…', share: null, tone: 'busy'});
  }
  document.addEventListener('click', (event) => { if (event.target.closest('#find, #find-all, #keep, #controls')) waiting(); });

  const acts = {layers, turn: () => document.querySelector('#map .body').turn?.(), story: () => story(0), points, help, project,
    link: () => navigator.clipboard?.writeText(location.href).then(() => draw.status(document.querySelector('#status .body'),
      {text: 'The link to this view is copied.', share: null, tone: 'calm'}))};
  function mount(name, element, props, watch, calls) {
    const body = element.querySelector('.body');
    for (const [key, call] of Object.entries(calls)) calls[key] = (data) => { waiting(); call(data); };
    element.querySelectorAll('[data-act]').forEach((button) => button.addEventListener('click', () => acts[button.dataset.act]()));
    let last = '';
    const paint = () => {
      const now = JSON.stringify(props.value ?? null);
      if (!body || !props.value || (now === last && name !== 'status')) return;
      last = now;
      draw[name](body, props.value, calls);
    };
    watch('value', paint);
    paint();
  }
  return {mount, acts};
})();
