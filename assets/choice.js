// What can be chosen: the three buttons in the bar, and the sheets behind them: models and methods
// by kind, concepts with a thumbnail each. Also files that are dropped on the page.
(window.slugParts ??= []).push((slug) => {
  const {make, draw, acts, dialog, values, calls} = slug;

  draw.choice = (body, value) => {
    const button = (act, label, ...inside) => make('button', {class: 'pick', type: 'button', 'aria-haspopup': 'dialog',
      title: label, on: () => acts[act]()}, ...inside, make('i', {'aria-hidden': 'true'}));
    body.replaceChildren(
      button('models', 'Choose another model', make('small', {}, value.host), ' ', make('b', {}, value.model)),
      button('concepts', 'Choose another concept', make('img', {src: value.src, alt: ''}), make('small', {}, 'forget'), ' ', make('b', {}, value.concept)),
      button('methods', 'Choose another method', make('small', {}, 'by'), ' ', make('b', {}, value.anchor && value.replaces ? `${value.method} → ${value.anchor}` : value.method)));
    const run = document.querySelector('#find-all');
    if (run) (run.matches('button') ? run : run.querySelector('button')).textContent = value.run;
  };

  const lasts = (seconds) => (seconds < 90 ? `about ${Math.max(1, Math.round(seconds))} s` : `about ${Math.round(seconds / 60)} min`);
  acts.methods = () => {
    const row = (method) => {
      const reason = method.unable[values.choice.model] || (become.value.trim() && !method.replaces ? `${method.name} removes a concept; it cannot replace it by another.` : '');
      const now = method.name === values.choice.method;
      return make('li', {}, make('button', {class: `model method ${now ? 'chosen' : ''} ${reason ? 'away' : ''}`, 'aria-pressed': String(now),
        disabled: !!reason, title: method.cite, on: () => { box.close(); calls.choice.method({method: method.name, anchor: become.value.trim()}); }},
        make('b', {}, method.name), make('small', {}, reason || `changes ${method.changes}; ${lasts(method.seconds[values.choice.model])}`)));
    };
    const become = make('input', {type: 'text', list: 'anchors', value: values.choice.anchor ?? '', placeholder: 'nothing: it just goes', maxlength: '40', 'aria-label': 'Replace by', id: 'replace-by'});
    const names = (values.choices?.concepts ?? []).flatMap((group) => group.rows.map((concept) => concept.name));
    const groups = () => (values.choices?.methods ?? []).map((group) => make('section', {}, make('h3', {}, group.title),
      make('ul', {class: 'models'}, ...group.rows.map(row))));
    const list = make('div', {}, ...groups());
    become.addEventListener('input', () => list.replaceChildren(...groups()));
    const box = dialog('By which method?', make('p', {}, 'A method is run when you choose it, and Stop ends it. Its edit then has the same slider, ladder, tray and file as every other.'),
      make('p', {}, make('label', {}, `Replace “${values.choice.concept}” by `, become), make('datalist', {id: 'anchors'}, ...names.map((name) => make('option', {value: name})))), list);
    box.classList.add('wide');
    box.querySelector('.chosen')?.focus();
  };

  acts.models = () => {
    const groups = (values.choices?.models ?? []).map((group) => make('section', {}, make('h3', {}, group.title, make('small', {}, group.note)),
      make('ul', {class: 'models'}, ...group.rows.map((row) => make('li', {}, make('button', {class: `model ${row.name === values.choice.model ? 'chosen' : ''} ${row.here ? '' : 'away'}`,
        'aria-pressed': String(row.name === values.choice.model), on: () => { box.close(); calls.choice.model({model: row.name}); }},
        make('b', {}, row.name), make('small', {}, row.note)))))));
    const box = dialog('Which model?', ...groups);
    box.querySelector('.chosen')?.focus();
  };

  acts.concepts = () => {
    const field = make('input', {type: 'search', placeholder: 'Find a concept', 'aria-label': 'Find a concept', id: 'find-concept'});
    const groups = (values.choices?.concepts ?? []).map((group) => make('section', {}, make('h3', {}, group.title, make('small', {}, String(group.rows.length))),
      make('ul', {class: 'concepts'}, ...group.rows.map((row) => make('li', {'data-name': row.name.toLowerCase()}, make('button', {class: row.name === values.choice.concept ? 'chosen' : '',
        'aria-pressed': String(row.name === values.choice.concept), on: () => { box.close(); calls.choice.concept({concept: row.name}); }},
        make('img', {src: row.src, alt: '', loading: 'lazy'}), make('span', {}, row.name)))))));
    const box = dialog('What should it forget?', make('p', {}, field, make('small', {}, ' or type a name of your own in the card Forget, and give pictures of it.')), ...groups);
    box.classList.add('wide');
    field.addEventListener('input', () => box.querySelectorAll('li[data-name]').forEach((item) => { item.hidden = !item.dataset.name.includes(field.value.trim().toLowerCase()); }));
    field.focus();
  };

  // ---- files dropped anywhere: an edit comes back, one picture is looked at, several are a concept
  const input = (id) => document.querySelector(`#${id}`)?.parentElement.querySelector('input[type=file]');
  document.addEventListener('dragover', (event) => { if (event.dataTransfer?.types.includes('Files')) event.preventDefault(); });
  document.addEventListener('drop', (event) => {
    const files = [...(event.dataTransfer?.files ?? [])];
    if (!files.length || event.target.closest('input[type=file]')) return;
    event.preventDefault();
    const edit = files.some((file) => file.name.endsWith('.safetensors'));
    const field = input(edit ? 'open' : files.length > 1 ? 'give' : 'own');
    if (!field) { slug.say('This file cannot be used here: drop an edit file or pictures.'); return; }
    const some = new DataTransfer();
    (field.multiple ? files : files.slice(0, 1)).forEach((file) => some.items.add(file));
    field.files = some.files;
    field.dispatchEvent(new Event('change', {bubbles: true}));
  });
});
