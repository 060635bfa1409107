/*
 * request_parts.h - inside request.c: the verbs, and how they reply.
 *
 * Private to serve/. A verb's function runs on a worker with its own copy of the request, and packs its reply; what ends in _then runs
 * on the loop afterwards, where there is more to it than sending that.
 */
#ifndef PREPROCESSD_SERVE_REQUEST_PARTS_H
#define PREPROCESSD_SERVE_REQUEST_PARTS_H

#include "preprocessd/serve/internal.h"

/* body: the message of that kind. */
MUST_USE int request_pack(struct control *control, Wire__Reply__BodyCase kind, void *body, struct err *err);
/* On the loop: sends what was packed, and takes the descriptor along. */
void request_reply_with(struct control *control, int fd);

/* request_datasets.c */
MUST_USE int request_list(struct worker *worker, struct control *control, struct err *err);
MUST_USE int request_show(struct worker *worker, struct control *control, struct err *err);
MUST_USE int request_failures(struct worker *worker, struct control *control, struct err *err);
MUST_USE int request_samples(struct worker *worker, struct control *control, struct err *err);
MUST_USE int request_remove(struct worker *worker, struct control *control, struct err *err);
MUST_USE int request_explain(struct worker *worker, struct control *control, struct err *err);

/* request_features.c */
MUST_USE int request_get_features(struct worker *worker, struct control *control, struct err *err);
void request_get_features_then(struct control *control);
MUST_USE int request_put_features(struct worker *worker, struct control *control, struct err *err);

/* request_status.c */
MUST_USE int request_status(struct worker *worker, struct control *control, struct err *err);
void request_status_then(struct control *control);

/* request_stream.c */
MUST_USE int request_open(struct worker *worker, struct control *control, struct err *err);
void request_open_then(struct control *control);

#endif
