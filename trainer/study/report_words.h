/*
 * report_words.h - what the numbers mean, in sentences, for every format.
 *
 * Threads: as the text they write to.
 */
#ifndef TRAINER_STUDY_REPORT_WORDS_H
#define TRAINER_STUDY_REPORT_WORDS_H

#include "trainer/study/report_analysis.h"
#include "trainer/study/report_samples.h"
#include "trainer/study/report_text.h"

typedef void (*text_escape)(struct text *t, const char *s);
void text_plain(struct text *t, const char *s); /* no escaping: terminals */

/* "2 of 4 arms are better than none, 2 cannot be told apart from it." */
void words_headline(struct text *t, const struct report_analysis *analysis, text_escape escape);
/* "is better than none by 2.1 points (95% interval +0.8 to +3.4; Holm p = 0.004)": without the arm's name and full stop. */
void words_verdict(struct text *t, const struct report_analysis *analysis, int arm, text_escape escape);
/* "better" and so on, for tables. */
const char *words_verdict_name(enum report_verdict verdict);
/* "Over all 8 combinations of dropout, l2 and adv: adv +3.0 points (...), ..."; nothing where there is no full factorial. */
void words_factors(struct text *t, const struct report_analysis *analysis, text_escape escape);
/* Where the other tests see it differently; nothing where they agree. */
void words_second_view(struct text *t, const struct report_analysis *analysis, int arm, text_escape escape);
/* "31 of 45 runs have finished: ..."; nothing for a complete study. */
void words_incomplete(struct text *t, const struct report_analysis *analysis, text_escape escape);
/* What does not apply to a model that ranks; nothing where all does. */
void words_ranks(struct text *t, const struct report_analysis *analysis, text_escape escape);
/* Arms that have not left chance; nothing where all have. Matching only, where chance is one half. */
#define REPORT_CHANCE_BELOW 0.55
#define REPORT_LEARNED_FROM 0.6 /* of training pairs: overfitted, not on the plateau */
void words_plateau(struct text *t, const struct report_analysis *analysis, text_escape escape);
/* An arm was tested, but its size of effect or what would have been found cannot be said. */
bool words_has_dashes(const struct report_analysis *analysis);
/* How the study could have seen a difference. */
void words_power(struct text *t, const struct report_analysis *analysis, text_escape escape);
/* The same for one check: "identical in all 25 cells". */
void words_identity(struct text *t, const struct report_identity *identity, text_escape escape);
/* False only where something differs that should not. */
bool words_identities_hold(const struct report_analysis *analysis);
/* "Arms differ in more than the regularizer: ..."; nothing where they do not. */
void words_differing(struct text *t, const struct report_analysis *analysis, text_escape escape);

/* The formats. report_html.c, report_json.c, report_plain.c */
void report_html(struct text *t, const struct report_analysis *analysis, const struct report_samples *samples);
void report_json(struct text *t, const struct report_analysis *analysis);
void report_md(struct text *t, const struct report_analysis *analysis);
void report_tex(struct text *t, const struct report_analysis *analysis);
void report_csv(struct text *t, const struct report_analysis *analysis);
void report_runs_csv(struct text *t, const struct report_analysis *analysis);

#endif
