/*
 * robust.h - how accuracy falls under attack, arm by arm, and whether the attacks can be believed.
 *
 * Works on the weights at the end of one run of each arm (same fold and seed, so on the same validation pairs):
 * noise, FGSM and PGD on pixels, on word embeddings, and on both, over a ladder of epsilons; examples that
 * were made with one arm's weights on every other arm. An arm that only hides its gradients looks robust and is not; the checks
 * are those of Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security", ICML 2018.
 *
 * Threads: one caller. Format: schemas/study.md ("robustness.json").
 */
#ifndef TRAINER_STUDY_ROBUST_H
#define TRAINER_STUDY_ROBUST_H

#include "trainer/study/spec.h"

struct robust_options {
	const struct study_spec *spec;
	const char *dir, *socket;         /* socket: --socket, or NULL */
	int fold, seed;                   /* seed: index */
	int pairs, steps, restarts, threads;
	bool quiet;
	bool (*cancelled)(void *context); /* may be NULL; asked between attacks */
	void *cancel_context;
};

/* Writes DIR/robustness.json. ERR_NOTFOUND: no weights were kept. */
MUST_USE int robust_run(const struct robust_options *options, struct err *err);

#endif
