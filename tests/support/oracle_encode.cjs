/*
 * oracle_encode.cjs - token ids by Hugging Face's Rust tokenizer.
 *
 *     node oracle_encode.cjs VOCAB < LINES > IDS
 *
 * The same contract as `prepctl inspect text`: lines end at '\n' only, bytes
 * that are not UTF-8 become U+FFFD, no added tokens, no truncation. With
 * --time as a last argument it prints lines per second instead (one thread).
 */
'use strict';
const fs = require('fs');
const path = require('path');
process.env.TOKENIZERS_PARALLELISM = process.env.TOKENIZERS_PARALLELISM || 'false';
process.env.RAYON_NUM_THREADS = process.env.RAYON_NUM_THREADS || '1';
const { Tokenizer } = require(path.join(__dirname, '../node_modules/tokenizers'));

/* As the Rust implementation reads vocab.txt: lines in order, white space at
 * the end dropped, the last of equal words wins. */
function readVocab(file) {
	const lines = fs.readFileSync(file, 'utf8').split('\n');
	if (lines[lines.length - 1] === '')
		lines.pop();
	const vocab = {};
	lines.forEach((line, i) => { vocab[line.replace(/\p{White_Space}+$/u, '')] = i; });
	return vocab;
}

function open(file) {
	return Tokenizer.fromString(JSON.stringify({
		version: '1.0', truncation: null, padding: null, added_tokens: [],
		normalizer: { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true },
		pre_tokenizer: { type: 'BertPreTokenizer' },
		post_processor: {
			type: 'TemplateProcessing',
			single: [{ SpecialToken: { id: '[CLS]', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } },
				 { SpecialToken: { id: '[SEP]', type_id: 0 } }],
			pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
			special_tokens: Object.fromEntries(['[CLS]', '[SEP]'].map((t) => [t, { id: t, ids: [readVocab(file)[t]], tokens: [t] }])),
		},
		decoder: null,
		model: { type: 'WordPiece', unk_token: '[UNK]', continuing_subword_prefix: '##', max_input_chars_per_word: 100,
			 vocab: readVocab(file) },
	}));
}

function readLines() {
	const bytes = fs.readFileSync(0), lines = [];
	for (let at = 0; at < bytes.length;) {
		let end = bytes.indexOf(10, at);
		if (end < 0)
			end = bytes.length;
		/* Not Buffer.toString(): it drops a byte order mark in no version of
		 * node, but TextDecoder says so explicitly. */
		lines.push(new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes.subarray(at, end)));
		at = end + 1;
	}
	return lines;
}

async function main() {
	const tokenizer = open(process.argv[2]), lines = readLines(), start = process.hrtime.bigint();
	const out = [];
	for (let i = 0; i < lines.length; i += 1000) {
		const batch = await tokenizer.encodeBatch(lines.slice(i, i + 1000));
		for (const encoding of batch)
			out.push(process.argv[3] === '--time' ? '' : encoding.getIds().join(' ') + '\n');
	}
	if (process.argv[3] === '--time')
		console.log(Math.round(lines.length / (Number(process.hrtime.bigint() - start) * 1e-9)));
	else
		fs.writeFileSync(1, out.join(''));
}

main();
