/*
 * wordpiece_ref.h - the tokenizer again, written plainly: one pass over arrays
 * of code points for each step that the oracle names, a cell for each code
 * point, pieces looked up as strings. Slow, and kept as the oracle for the fast
 * one. One thread.
 *
 * Vocabularies are taken apart at '\n' alone and must hold the four special
 * words; white space at the end of a line is trimmed if it is ASCII.
 */
#ifndef TESTS_SUPPORT_WORDPIECE_REF_H
#define TESTS_SUPPORT_WORDPIECE_REF_H

#include <stddef.h>
#include <stdint.h>

struct wordpiece_ref_entry {
	const char *bytes;
	size_t length;
	int32_t id;
};

struct wordpiece_ref {
	struct wordpiece_ref_entry *entries; /* ascending, the last line of equal words first */
	size_t count;
};

/* Borrows vocab. Returns -1 when memory is short. */
int wordpiece_ref_open(struct wordpiece_ref *ref, const char *vocab, size_t bytes);
void wordpiece_ref_close(struct wordpiece_ref *ref);

/* ids: room for bytes + 2. Returns their number, or 0 when memory is short. */
size_t wordpiece_ref_encode(const struct wordpiece_ref *ref, const char *text, size_t bytes, int32_t *ids);

#endif
