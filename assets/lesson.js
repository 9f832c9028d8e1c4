// In class and on stage: predict the layer, then reveal it; and the guided story.
(window.slugParts ??= []).push((slug) => {
  const {make, small, acts, calls, values, again, calm} = slug;
  slug.top = () => document.querySelector('.gradio-container') || document.body;

  // ---- predict, then reveal: the plots hide until the visitor has chosen a slot
  let guessing = false;
  acts.guess = () => {
    guessing = !guessing;
    values.guess = undefined;
    document.querySelector('.verdict-of')?.remove();
    document.body.classList.toggle('guessing', guessing);
    again.map?.();
    if (guessing) document.querySelector('.cover button')?.focus();
    else document.querySelector('.cover')?.remove();
  };
  slug.hooks.map = (body, value) => {
    if (!guessing) return;
    const towers = [...new Set(value.rows.filter((row) => row.reads).map((row) => row.tower))].sort();
    const cover = make('div', {class: 'cover'}, make('p', {}, `Which layer holds “${values.choice?.concept}”? Choose one, and the plot appears.`),
      ...towers.map((tower) => make('div', {class: 'grid', role: 'group', 'aria-label': `${tower} tower`}, make('b', {}, `${tower} tower, first to last`),
        make('div', {class: 'cells'}, ...value.rows.filter((row) => row.tower === tower && row.reads).map((row) => make('button', {title: row.name, 'aria-label': `${tower} ${row.name}`, on: () => reveal(row)}, row.name))))),
      small('Leave', 'Show the plot without a guess', acts.guess));
    body.querySelector('.cover')?.remove();
    body.append(cover);
  };
  function reveal(row) {
    const rows = values.map.rows.filter((other) => other.reads);
    const rank = 1 + rows.filter((other) => other.importance > row.importance).length;
    const front = rows.filter((layer) => layer.front).map((layer) => `${layer.tower} ${layer.name}`).join(', ');
    const said = row.front ? 'It is on the front: well guessed.' : `It is not on the front, which holds ${front}.`;
    guessing = false;
    document.body.classList.remove('guessing');
    document.querySelector('.cover')?.remove();
    values.guess = row.layer;
    again.map?.();
    window.dispatchEvent(new Event('resize'));
    const note = make('p', {class: 'verdict-of', role: 'status'}, `You said ${row.tower} ${row.name}: number ${rank} of ${rows.length} by importance, alignment ${row.alignment.toFixed(3)}. ${said} `,
      small('Close', 'Close this', () => { note.remove(); values.guess = undefined; again.map?.(); }));
    document.querySelector('#map .body').prepend(note);
  }

  // ---- the story: beats that point at the real controls and can be left at any time
  const STORY = [
    ['forget', 'These pictures are all that the model is told. Orange is what it should forget, blue what it should keep.'],
    ['locate', 'One pass over each set gives two gradients. High: the layer matters to the concept. Left: moving it leaves the rest alone.'],
    ['locate', 'No layer beats those on the dotted line in both ways. Click one of them, or walk along them with the arrow keys.'],
    ['step', 'The layer moves once, along one direction. The curves say what is left of both, with 95 % intervals.'],
    ['step', 'Drag the green handle, or let the search find the step: it doubles until the concept is gone, then halves.'],
    ['ladder', 'The same seeds at every step: the target should go, its neighbour and the stranger should stay.'],
    ['see', 'Before and after, live. Below: what else has changed, by name.'],
    ['step', 'Is it better than chance? Controls puts the opposite direction, a random one and a random layer beside it.'],
  ];
  // What a beat does on the real controls, when the visitor wants to see it done.
  const DEEDS = {
    2: ['Choose the next one', () => document.querySelector('#map .plot').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))],
    4: ['Go to 40 %', () => calls.curve.step({step: 0.4})],
    5: ['Back to 10 %', () => calls.ladder.step({step: 0.1})],
    7: ['Controls', () => document.querySelector('#controls').click()],
  };
  function story(at) {
    document.querySelectorAll('.told').forEach((part) => part.classList.remove('told'));
    document.querySelector('.story')?.remove();
    if (at < 0 || at >= STORY.length) return;
    const [card, text] = STORY[at];
    const target = document.querySelector(`#${card}-card`);
    target.classList.add('told');
    target.scrollIntoView({block: 'nearest', behavior: calm() ? 'auto' : 'smooth'});
    const next = small(at + 1 < STORY.length ? 'Next' : 'End', 'Next step of the story', () => story(at + 1));
    const box = make('aside', {class: 'story slug-dialog', 'aria-live': 'polite', 'aria-label': 'Story'}, make('small', {}, `${at + 1} of ${STORY.length}`),
      make('p', {}, text), make('div', {}, small('Back', 'Previous step of the story', () => story(at - 1)), DEEDS[at] ? small(DEEDS[at][0], DEEDS[at][0], DEEDS[at][1]) : null, next, small('Leave', 'Leave the story', () => story(-1))));
    const [frame, height] = [target.getBoundingClientRect(), 104];
    const below = frame.bottom + height < innerHeight;
    box.style.top = `${Math.max(8, below ? frame.bottom + 8 : frame.top > height ? frame.top - height : innerHeight - height)}px`;
    box.style.left = `${Math.min(Math.max(8, frame.left), innerWidth - Math.min(440, innerWidth - 16) - 8)}px`;
    slug.top().append(box);
    next.focus({preventScroll: true});
  }

  acts.story = () => story(0);
  acts.leave = () => story(-1);
});
