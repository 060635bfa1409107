/*
 * report_parts.h - between the files that read a study's folder.
 *
 * Threads: one thread.
 */
#ifndef TRAINER_STUDY_REPORT_PARTS_H
#define TRAINER_STUDY_REPORT_PARTS_H

#include "trainer/study/report_data.h"

/* Fills p, correct, pairs (or other_pairs) of a run whose place in data->runs is set after this returns.
 * Without a predictions.csv it is `unpredicted`. */
MUST_USE int report_predictions_read(struct report_data *data, struct report_run *run, struct err *err);
/* Numbers the pictures of all pairs through: pairs->cluster, data->clusters. */
MUST_USE int report_clusters_number(struct report_data *data, struct err *err);
void report_pairs_free(struct report_pairs *pairs); /* NULL is fine */
/* data->robust and data->check, where there is a robustness.json. */
MUST_USE int report_robustness_read(struct report_data *data, struct err *err);
/* The arm of this name; -1: none. */
int report_arm_find(const struct report_data *data, const char *name);

#endif
