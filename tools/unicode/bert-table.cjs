#!/usr/bin/env node
/*
 * bert-table.cjs - prints preprocessd/codec/bert_table.c: what the reference
 * tokenizer does with each code point, found by asking it.
 *
 *     tests/support/install-node-oracle.sh
 *     node tools/unicode/bert-table.cjs > preprocessd/codec/bert_table.c
 *
 * Each of the 1,112,064 code points goes through every step of the
 * normalizer alone (clean text, CJK spacing, NFD, accents, lower case) and
 * through the pre-tokenizer. Canonical combining classes, which decide how NFD
 * orders marks, are found by putting marks beside each other and looking which
 * pairs swap. What the tables say is then composed again for every code point
 * and compared with the whole normalizer; any difference ends the script.
 *
 * docs/tokens.md explains the result.
 */
'use strict';
const path = require('path');
const oracle = require(path.join(__dirname, '../../tests/node_modules/tokenizers'));

const SURROGATES = [0xd800, 0xdfff];
const HANGUL = [0xac00, 0xd7a3];
const text = String.fromCodePoint;
const points = (s) => Array.from(s, (c) => c.codePointAt(0));
const hex = (c) => '0x' + c.toString(16).toUpperCase().padStart(4, '0');

function check(condition, what) {
	if (!condition) {
		console.error('bert-table: the tables cannot express this: ' + what);
		process.exit(1);
	}
}

function only(step) {
	const off = { cleanText: false, handleChineseChars: false, stripAccents: false, lowercase: false };
	return oracle.bertNormalizer({ ...off, ...step });
}

const steps = {
	clean: only({ cleanText: true }),
	cjk: only({ handleChineseChars: true }),
	accents: only({ stripAccents: true }),
	lower: only({ lowercase: true }),
	nfd: oracle.nfdNormalizer(),
	whole: oracle.bertNormalizer(),
};
const splitter = oracle.bertPreTokenizer();

/* What a step makes of c between two letters. */
function between(step, c) {
	const out = points(steps[step].normalizeString('x' + text(c) + 'y'));
	check(out[0] === 0x78 && out[out.length - 1] === 0x79, `${step} moves ${hex(c)} past a letter`);
	return out.slice(1, -1);
}

const all = [];
for (let c = 0; c < 0x110000; c++)
	if (c < SURROGATES[0] || c > SURROGATES[1])
		all.push(c);

const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);
const facts = new Map();
for (const c of all) {
	const pieces = splitter.preTokenizeString('x' + text(c) + 'y').length;
	facts.set(c, {
		clean: between('clean', c), cjk: between('cjk', c), nfd: between('nfd', c),
		accents: between('accents', c), lower: between('lower', c), whole: between('whole', c),
		space: pieces === 2, punctuation: pieces === 3,
	});
}

/* ---- canonical combining classes, as ranks from 1 ---- */

function swaps(a, b) {
	const together = steps.nfd.normalizeString('x' + text(a, b));
	return together !== 'x' + text(...facts.get(a).nfd, ...facts.get(b).nfd);
}

/* U+0334 has the lowest class there is (1) and U+0345 the highest (240): what
 * swaps with neither is a starter. */
const nonstarters = all.filter((c) => same(facts.get(c).nfd, [c]) && (swaps(c, 0x334) || swaps(0x345, c)));
const classes = []; /* in ascending order, each a list of code points that do not swap with each other */
for (const c of nonstarters) {
	let low = 0, high = classes.length, equal = false;
	while (low < high && !equal) {
		const middle = (low + high) >> 1;
		if (swaps(classes[middle][0], c))
			high = middle;
		else if (swaps(c, classes[middle][0]))
			low = middle + 1;
		else {
			classes[middle].push(c);
			equal = true;
		}
	}
	if (!equal)
		classes.splice(low, 0, [c]);
}
const isMark = (c) => facts.get(c).accents.length === 0 && same(facts.get(c).nfd, [c]);
/* Marks that are stripped need no rank; the others keep their order. */
const surviving = classes.map((list) => list.filter((c) => !isMark(c))).filter((list) => list.length > 0);
const rank = new Map();
surviving.forEach((list, i) => list.forEach((c) => rank.set(c, i + 1)));
const nonstarter = new Set(nonstarters);

/* ---- one action for each code point ---- */

const ranges = [], ranks = [], singles = [], sequences = [];

function addRange(list, c, value) {
	const last = list[list.length - 1];
	if (last && last.last === c - 1 && last.value === value)
		last.last = c;
	else
		list.push({ first: c, last: c, value });
}

const isAlone = (c) => facts.get(c).punctuation || !same(facts.get(c).cjk, [c]);

/* NFD, accents and lower case of c; marks that vanish but end a run of
 * reordering are '-'. */
function finish(c) {
	const out = [];
	for (const part of facts.get(c).nfd) {
		if (isMark(part)) {
			if (!nonstarter.has(part))
				out.push('-');
			continue;
		}
		const lower = facts.get(part).lower;
		check(lower.length === 1, `${hex(part)} has a lower case of ${lower.length} characters`);
		check(!facts.get(lower[0]).space, `${hex(part)} becomes a space late`);
		check(rank.get(part) === rank.get(lower[0]), `${hex(part)} changes its class with its case`);
		out.push(lower[0]);
	}
	/* Beside a letter a vanished starter says nothing that the letter does not. */
	const letters = out.filter((x) => x !== '-');
	if (letters.length === 0)
		return out.slice(0, 1);
	check(out.every((x, i) => x !== '-' || !(rank.has(out[i - 1]) || rank.has(out[i + 1]))), `${hex(c)} has a starter among marks`);
	return letters;
}

for (const c of all) {
	const fact = facts.get(c);
	let whole;
	if (fact.clean.length === 0) {
		addRange(ranges, c, 'DROP');
		check(same(fact.whole, []), hex(c));
		continue;
	}
	if (!same(fact.clean, [c]) || fact.space) {
		addRange(ranges, c, 'SPACE');
		check(same(fact.whole, [0x20]), hex(c));
		continue;
	}
	const spaced = !same(fact.cjk, [c]), out = finish(c);
	check(same(fact.whole, [...(spaced ? [0x20] : []), ...out.filter((x) => x !== '-'), ...(spaced ? [0x20] : [])]), hex(c));
	/* A character that is set apart stays so, and no other becomes so, by
	 * what it turns into. */
	check(!spaced || (out.length === 1 && !isNaN(out[0])), hex(c));
	if (out.length === 1 && out[0] !== '-')
		check(spaced || fact.punctuation ? isAlone(out[0]) : isAlone(out[0]) === facts.get(out[0]).punctuation, hex(c));
	if (out.length === 0)
		addRange(ranges, c, 'MARK');
	else if (out[0] === '-')
		addRange(ranges, c, 'MARK_STARTER');
	else if (c >= HANGUL[0] && c <= HANGUL[1]) {
		const i = c - HANGUL[0], tail = i % 28;
		check(same(out, [0x1100 + Math.floor(i / 588), 0x1161 + Math.floor(i / 28) % 21, ...(tail ? [0x11a7 + tail] : [])]), hex(c));
		addRange(ranges, c, 'HANGUL');
	} else if (same(out, [c])) {
		check(!rank.has(c) || !isAlone(c), `${hex(c)} is a mark and stands alone`);
		if (rank.has(c))
			addRange(ranks, c, rank.get(c));
		else if (isAlone(c))
			addRange(ranges, c, 'ALONE');
	} else if (out.length === 1)
		singles.push({ from: c, to: out[0] });
	else {
		check(out.length <= 3 && out.every((x) => !isAlone(x)), hex(c));
		sequences.push({ from: c, to: out });
	}
}

/* ---- runs among the single replacements ---- */

const runs = [], pairs = [];
for (let i = 0; i < singles.length;) {
	let best = { length: 1 };
	for (const [step, slope] of [[1, 0], [1, 1], [2, 1]]) {
		let n = 1;
		while (i + n < singles.length && singles[i + n].from === singles[i].from + n * step &&
		       singles[i + n].to === singles[i].to + n * step * slope)
			n++;
		if (n > best.length)
			best = { length: n, step, slope };
	}
	if (best.length > 1)
		runs.push({ ...singles[i], last: singles[i + best.length - 1].from, step: best.step, slope: best.slope });
	else
		pairs.push(singles[i]);
	i += best.length;
}

/* ---- output ---- */

function rows(list, print, perLine) {
	const lines = [];
	for (let i = 0; i < list.length; i += perLine)
		lines.push('\t' + list.slice(i, i + perLine).map(print).join(', ') + ',');
	return lines.join('\n');
}

function array(type, name, list, print, perLine) {
	console.log(`\nconst struct ${type} ${name}[] = {\n${rows(list, print, perLine)}\n};`);
	console.log(`const int ${name}_count = ${list.length};`);
}

console.log(`/* Printed by tools/unicode/bert-table.cjs from the reference tokenizer (npm package
 * tokenizers ${require(path.join(__dirname, '../../tests/node_modules/tokenizers/package.json')).version}); do not edit. bert_chars.h says what it means. */
#include "preprocessd/codec/bert_table.h"`);
array('bert_range', 'bert_ranges', ranges, (r) => `{ ${hex(r.first)}, ${hex(r.last)}, BERT_${r.value} }`, 3);
array('bert_rank', 'bert_ranks', ranks, (r) => `{ ${hex(r.first)}, ${hex(r.last)}, ${r.value} }`, 4);
array('bert_run', 'bert_runs', runs, (r) => `{ ${hex(r.from)}, ${hex(r.last)}, ${hex(r.to)}, ${r.step}, ${r.slope} }`, 3);
array('bert_pair', 'bert_pairs', pairs, (r) => `{ ${hex(r.from)}, ${hex(r.to)} }`, 5);
array('bert_sequence', 'bert_sequences', sequences, (r) => `{ ${hex(r.from)}, { ${r.to.map(hex).join(', ')} } }`, 3);
console.error(`${ranges.length} ranges, ${ranks.length} ranks (${surviving.length} classes), ${runs.length} runs, ` +
	      `${pairs.length} pairs, ${sequences.length} sequences`);
