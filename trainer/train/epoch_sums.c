#include "trainer/train/epoch_sums.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void epoch_sums_add(struct epoch_sums *sums, const struct metrics_train *line)
{
	sums->steps++;
	if (isfinite(line->loss)) { /* a step that diverged ends the run before it gets here */
		sums->learned_steps++;
		sums->loss += line->loss;
		sums->accuracy += line->accuracy;
	}
	if (!line->adv)
		return;
	sums->adv_steps++;
	sums->targets = line->targets;
	sums->adv_clean += line->loss;
	sums->adv_loss += line->adv_loss;
	sums->adv_cost += line->adv_cost;
	sums->adv_kl_on = line->adv_kl_on;
	sums->adv_kl += line->adv_kl_on ? line->adv_kl : 0;
	for (int t = 0; t < ADV_TARGETS; t++)
		sums->ratio[t] += line->ratio[t];
}

void epoch_sums_text(const struct epoch_sums *sums, char out[EPOCH_TEXT_BYTES])
{
	double steps = (double)sums->learned_steps;

	if (sums->learned_steps == 0)
		snprintf(out, EPOCH_TEXT_BYTES, "no step had a sample to learn from");
	else
		snprintf(out, EPOCH_TEXT_BYTES, "train loss %.4f, accuracy %.4f", sums->loss / steps, sums->accuracy / steps);
}

void epoch_sums_adv_text(const struct epoch_sums *sums, char out[EPOCH_TEXT_BYTES])
{
	static const char *const names[ADV_TARGETS] = { "word embeddings", "image features", "fused features", "pixels" };
	double steps = (double)sums->adv_steps;
	size_t used;

	out[0] = '\0';
	if (sums->adv_steps == 0)
		return;
	used = (size_t)snprintf(out, EPOCH_TEXT_BYTES, "; adversarial loss %.4g beside %.4g clean", sums->adv_loss / steps,
				sums->adv_clean / steps);
	if (sums->adv_kl_on)
		used += (size_t)snprintf(out + used, EPOCH_TEXT_BYTES - used, ", divergence %.3g", sums->adv_kl / steps);
	for (int t = 0; t < ADV_TARGETS; t++)
		if (sums->targets >> t & 1)
			used += (size_t)snprintf(out + used, EPOCH_TEXT_BYTES - used, ", moved %.3g of the norm of %s",
						 sums->ratio[t] / steps, names[t]);
	snprintf(out + used, EPOCH_TEXT_BYTES - used, ", step %.2f x a clean one", sums->adv_cost / steps);
}
