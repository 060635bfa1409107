/*
 * resnet.h - the image tower: torchvision's ResNet (v1.5: stride in the 3x3),
 * with fc replaced by Linear(channels, out_features).
 *
 * Names under `image_encoder.`: conv1, bn1, layer1..4.N.conv1/bn1/..., downsample.0/.1, fc.
 * Oracle: torchvision.models.resnet18/resnet50. Initial values: torchvision's
 * (kaiming normal fan_out for convolutions, 1/0 for batch norm) and
 * torch.nn.Linear's for fc.
 *
 * Threads, ownership, limits: as model.h.
 */
#ifndef TRAINER_MODEL_RESNET_H
#define TRAINER_MODEL_RESNET_H

#include "trainer/model/model.h"

struct kernels;
struct resnet;
/* Registers its parameters; params_allocate() follows, then resnet_plan() with the batch limit. */
MUST_USE int resnet_open(struct resnet **out, const struct resnet_config *config, const struct kernels *kernels,
			 struct params *params, struct err *err);
/* recompute: keep little of a forward pass and make it again in backward; the same bits. */
MUST_USE int resnet_plan(struct resnet *resnet, int pictures_max, bool training, bool recompute, struct err *err);
/* Stochastic depth: probability of the last block's branch; block l of L has l/L of it. */
void resnet_set_depth(struct resnet *resnet, double probability);
/* While true, backward calls leave parameters' gradients alone. */
void resnet_inputs_only(struct resnet *resnet, bool inputs_only);
/* Before each forward call: draws which branches are dropped, by the names in call. */
void resnet_draw(struct resnet *resnet, const struct model_call *call, int B);
void resnet_close(struct resnet *resnet); /* NULL is fine */
/* All memory for activations, gradients and scratch; also for the other way than was planned. */
size_t resnet_activation_bytes(const struct resnet *resnet, bool recompute);
void resnet_forward(struct resnet *resnet, enum model_mode mode, const float *pixels, bool nhwc, int B, float *v);
void resnet_backward(struct resnet *resnet, const float *dv, float *dpixels);

#endif
