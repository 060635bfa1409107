/*
 * probe.h - `trainer probe`: one forward and backward pass between files.
 *
 * Reads a state dict and a batch, writes logits, loss (mean over the listed
 * pairs) and every gradient as NAME.grad, so that the model can be held
 * against another implementation from outside. Dropout is off.
 *
 * Format: safetensors; tensor names in schemas/probe.md.
 */
#ifndef TRAINER_PROBE_PROBE_H
#define TRAINER_PROBE_PROBE_H

#include "shared/base/err.h"

/* argv behind the verb. */
MUST_USE int trainer_probe(int argc, char *const argv[], struct err *err);

#endif
