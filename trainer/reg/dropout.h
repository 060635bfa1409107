/*
 * dropout.h - dropout in front of the fusion layer, the regularizer of the original script.
 *
 * Srivastava et al., "Dropout: a simple way to prevent neural networks from
 * overfitting", JMLR 15 (2014). Each element of a pair's fused feature vector
 * [v; t] is zeroed with probability p, the others are multiplied by 1/(1-p);
 * every pair draws its own mask. Off at evaluation. Costs no extra pass.
 *
 * at= names other places, each with draws of its own: head (behind the fusion layer), image and text (the towers' features, one
 * mask for each picture and caption), bert.hidden and bert.attention (inside the text tower, instead of --bert-dropout).
 *
 * Default: p = 0.3, at=fusion. Without this term p is 0 there. Dropout inside BERT
 * (--bert-dropout, 0.1) is part of that model and not switched by this.
 *
 * From random weights, matching starts on a plateau at accuracy 0.5 until
 * the first pair signal is found, and dropout here makes leaving it harder:
 * let it start later (dropout@3).
 */
#ifndef TRAINER_REG_DROPOUT_H
#define TRAINER_REG_DROPOUT_H

#include "trainer/reg/spec.h"

/* The probability in this epoch; 0: off. */
double reg_dropout_probability(const struct reg_spec *spec, uint64_t epoch);

#endif
