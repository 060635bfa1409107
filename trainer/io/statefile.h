/*
 * statefile.h - a state dict from whatever file it is in.
 *
 * What a file is says its content, not its name:
 *   safetensors; torch.save()'s zip archive or its legacy format (torchfile.h);
 *   an index of shards (model.safetensors.index.json, pytorch_model.bin.index.json),
 *   whose shards lie beside it; a folder as Hugging Face's save_pretrained()
 *   writes it. Other known kinds (TensorFlow, HDF5, a Git LFS pointer, a web
 *   page) get an error that says what they are and what to do.
 *
 * Prefixes that every name has because a module was wrapped when it was saved
 * (`module.` of DataParallel, `_orig_mod.` of torch.compile, `model.` and `net.` as
 * Lightning's modules often call what they train) are taken off.
 *
 * Threads:   a reader may be shared by threads that only read.
 * Limits:    STATEFILE_SHARDS_MAX shards.
 * Format:    schemas/weights.md.
 */
#ifndef TRAINER_IO_STATEFILE_H
#define TRAINER_IO_STATEFILE_H

#include "shared/base/json.h"
#include "trainer/io/state_tensor.h"

enum { STATEFILE_SHARDS_MAX = 1024 };

struct statefile; /* an open state dict; tensors live as long as it */
/* ERR_CORRUPT: a file of ours whose checksum does not fit (checksum.h). */
MUST_USE int statefile_open(struct statefile **out, const char *path, struct err *err);
/* A view of an open safetensors file as it is, which must outlive it. */
MUST_USE int statefile_borrow(struct statefile **out, const struct tensorfile *file, struct err *err);
void statefile_close(struct statefile *file); /* NULL is fine */
int statefile_count(const struct statefile *file);
const struct state_tensor *statefile_at(const struct statefile *file, int index);
const struct state_tensor *statefile_find(const struct statefile *file, const char *name); /* NULL: absent */
const char *statefile_path(const struct statefile *file);
/* The one safetensors file that this is, for its metadata; NULL: it is something else. */
const struct tensorfile *statefile_safetensors(const struct statefile *file);

#endif
