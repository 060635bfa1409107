/*
 * report_tree.h - a small JSON file as a tree, for files that a report reads.
 *
 * For study.json, result.json, run.json and robustness.json: kilobytes, read once,
 * asked by key. (The readers of data sets use the pull parser as it is.)
 * A field of the wrong kind is an ERR_FORMAT that names file and field; one
 * that is absent or null is "not there", never 0.
 *
 * Threads:   one tree, one thread.
 * Ownership: nodes and texts live until tree_free().
 * Limits:    TREE_BYTES_MAX a file, TREE_NODES_MAX values in it.
 */
#ifndef TRAINER_STUDY_REPORT_TREE_H
#define TRAINER_STUDY_REPORT_TREE_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/json.h"

#define TREE_BYTES_MAX ((size_t)64 << 20)
enum { TREE_NODES_MAX = 4 << 20 };

struct tree_node {
	enum json_kind kind;        /* OBJECT_BEGIN, ARRAY_BEGIN, STRING, NUMBER, TRUE, FALSE, NULL */
	const char *key;            /* of a member, else NULL */
	const char *text;           /* STRING: decoded; NUMBER: as written. Without bytes 0 */
	double number;              /* NUMBER */
	struct tree_node *child, *next;
	size_t count;               /* children */
};

struct tree {
	char *path;
	struct tree_node *root;
	struct tree_block *blocks;
	size_t nodes;
};

/* ERR_NOTFOUND: no such file. ERR_FORMAT says where it is damaged. */
MUST_USE int tree_read(struct tree *out, const char *path, struct err *err);
void tree_free(struct tree *tree); /* NULL and zeroed are fine */

/* NULL: not there, or null. The last of repeated keys counts. */
const struct tree_node *tree_get(const struct tree_node *object, const char *key);
/* The member's text; NULL where it is not there. */
MUST_USE int tree_text(const struct tree *tree, const struct tree_node *object, const char *key, const char **out, struct err *err);
/* NaN where it is not there. Infinite numbers and NaN pass. */
MUST_USE int tree_real(const struct tree *tree, const struct tree_node *object, const char *key, double *out, struct err *err);
/* Whether a NUMBER is a whole one from 0 to 2^63 - 1; exact, as seeds may be: one written as 5.0 or 5e3 is at most 2^53. */
bool tree_whole(const struct tree_node *node, int64_t *out);
/* -1 where it is not there; tree_whole(). */
MUST_USE int tree_count(const struct tree *tree, const struct tree_node *object, const char *key, int64_t *out, struct err *err);
/* As tree_text(), and ERR_FORMAT where it is not there. */
MUST_USE int tree_need_text(const struct tree *tree, const struct tree_node *object, const char *key, const char **out, struct err *err);
/* The member as an object or array; NULL where it is not there. */
MUST_USE int tree_branch(const struct tree *tree, const struct tree_node *object, const char *key, enum json_kind kind,
			 const struct tree_node **out, struct err *err);

#endif
