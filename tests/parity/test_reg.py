"""Every term of --reg against PyTorch, float64, by its definition and the naive way: `trainer probe --reg` gives the gradients of
one step's whole objective and what it drew at random; here each pass is a whole pass through the model, and autograd
does the rest. Values within 1e-4, each parameter's gradient within 5e-3 of its norm in the best of up to three
batches (a ReLU that flips in float32 makes a single batch jump). docs/training.md has the formulas.
"""
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import tensors  # noqa: E402
from harness import run_ok  # noqa: E402
from test_probe import is_zero_in_theory, make_batch, make_model  # noqa: E402

F = torch.nn.functional
GRADIENT_LIMIT, VALUE_LIMIT, BATCHES = 5e-3, 1e-4, 3
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
NAMES = ("text", "feat", "fused", "pixel")


class Step:
    """One micro-batch: passes through the whole model with the masks, shares and perturbations of a probe's output."""

    def __init__(self, model, batch, drawn):
        self.model = model.double().train()
        self.ids, self.mask = torch.from_numpy(batch["input_ids"]), torch.from_numpy(batch["attention_mask"])
        self.image = torch.from_numpy(batch["image"]).double()
        self.drawn = {name: torch.from_numpy(np.array(value)) for name, value in drawn.items()}
        self.drawn = {name: value.double() if value.is_floating_point() else value for name, value in self.drawn.items()}
        if "pair_label" in batch:
            self.pairs = torch.from_numpy(batch["pair_image"]), torch.from_numpy(batch["pair_text"])
            self.labels = torch.from_numpy(batch["pair_label"])
        else:
            self.pairs = torch.arange(len(self.ids)), torch.arange(len(self.ids))
            self.labels = torch.from_numpy(batch["labels"])
        self.prefix = ""

    def factor(self, name):
        return self.drawn.get(self.prefix + name, 1.0)

    def text(self, delta):
        encoder, ids = self.model.text_encoder, self.ids
        e = encoder.embeddings
        words = e.word_embeddings(ids)
        if delta is not None:
            words = words + delta
        x = e.LayerNorm(words + e.token_type_embeddings(torch.zeros_like(ids)) + e.position_embeddings(torch.arange(ids.shape[1])))
        x = x * self.factor("mask.bert.embeddings")
        bias = (1.0 - self.mask[:, None, None, :].double()) * -1e30
        for number, layer in enumerate(encoder.encoder.layer):
            a = layer.attention.self
            split = lambda y: y.view(y.shape[0], y.shape[1], a.heads, -1).transpose(1, 2)  # noqa: E731
            q, k, v = split(a.query(x)), split(a.key(x)), split(a.value(x))
            probs = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias).softmax(-1) * self.factor(f"mask.bert.{number}.probs")
            context = (probs @ v).transpose(1, 2).reshape(x.shape)
            inner = layer.attention.output.dense(context) * self.factor(f"mask.bert.{number}.attention")
            x = layer.attention.output.LayerNorm(inner * self.depth("text.attention", number)[:, None, None] + x)
            inner = layer.output.dense(F.gelu(layer.intermediate.dense(x))) * self.factor(f"mask.bert.{number}.output")
            x = layer.output.LayerNorm(inner * self.depth("text.output", number)[:, None, None] + x)
        return self.model.text_projector(x[:, 0]) * self.factor("mask.text")

    def depth(self, name, layer):
        found = self.factor("depth." + name)
        return found[layer] if torch.is_tensor(found) else torch.ones(len(self.ids), dtype=torch.float64)

    def features(self, image):
        net = self.model.image_encoder
        x = net.maxpool(net.relu(net.bn1(net.conv1(image))))
        number = 0
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            for block in stage:
                inner = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
                shortcut = x if block.downsample is None else block.downsample(x)
                x = F.relu(inner * self.depth("image", number)[:, None, None, None] + shortcut)
                number += 1
        return net.fc(torch.flatten(net.avgpool(x), 1)) * self.factor("mask.image")

    def scores(self, delta=None):
        """Logits of a whole pass at x + delta: {text, feat, fused, pixel} -> perturbation."""
        delta = delta or {}
        image = self.image
        if delta.get("pixel") is not None:
            image = image + delta["pixel"] / STD.double()[:, None, None]
        v = self.features(image)
        if delta.get("feat") is not None:
            v = v + delta["feat"]
        t = self.text(delta.get("text"))
        x = torch.cat([v[self.pairs[0]], t[self.pairs[1]]], 1)
        if "mixup.share" in self.drawn:
            share = self.drawn["mixup.share"][:, None]
            x = share * x + (1 - share) * x[self.drawn["mixup.partner"]]
        if delta.get("fused") is not None:
            x = x + delta["fused"]
        fusion = self.model.fusion_layer
        y = fusion[3](F.relu(fusion[1](x * self.factor("mask.fusion"))))
        return self.model.head(y * self.factor("mask.head"))

    def loss(self, scores, smooth=0.0):
        ce = lambda labels: F.cross_entropy(scores, labels, reduction="none", label_smoothing=smooth)  # noqa: E731
        losses = ce(self.labels)
        if "mixup.share" in self.drawn:
            share = self.drawn["mixup.share"]
            losses = share * losses + (1 - share) * ce(self.labels[self.drawn["mixup.partner"]])
        return losses.mean()

    def clean_inputs(self):
        """What is perturbed, measured where it is perturbed."""
        with torch.no_grad():
            v, t = self.features(self.image), self.text(None)
            x = torch.cat([v[self.pairs[0]], t[self.pairs[1]]], 1)
            if "mixup.share" in self.drawn:
                share = self.drawn["mixup.share"][:, None]
                x = share * x + (1 - share) * x[self.drawn["mixup.partner"]]
            pixels = self.image * STD.double()[:, None, None] + MEAN.double()[:, None, None]
            return {"text": self.model.text_encoder.embeddings.word_embeddings(self.ids), "feat": v, "fused": x, "pixel": pixels}

    def inner(self):
        """1 where a word embedding may be perturbed."""
        inner = self.mask.double().clone()
        inner[:, 0] = 0
        inner[torch.arange(len(inner)), self.mask.sum(1) - 1] = 0
        return inner[:, :, None]


def symmetric_kl(a, b):
    log_p, log_q = a.log_softmax(1), b.log_softmax(1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1).mean()


class Adversary:
    """Balls, steps and projections of perturb.h for some targets together."""

    def __init__(self, step, targets, eps, relative=True, linf=False):
        self.step, self.targets, self.linf = step, targets, linf
        self.x = step.clean_inputs()
        self.radius, self.mask = {}, {}
        for name in targets:
            x = self.x[name]
            mask = step.inner() if name == "text" else torch.ones(1, dtype=torch.float64)
            dims = tuple(range(1, x.dim()))
            norm = ((x * mask) ** 2).sum(dims, keepdim=True).sqrt()
            count = mask.sum(dims, keepdim=True) * x.shape[-1] if name == "text" else torch.tensor(float(x[0].numel()))
            self.mask[name] = mask
            self.radius[name] = eps * torch.ones_like(norm) if not relative else eps * (norm / count.clamp(min=1).sqrt() if linf else norm)

    def zero(self):
        return {name: torch.zeros_like(self.x[name]) for name in self.targets}

    def start(self, drawn):
        delta = {name: drawn["start." + name] for name in self.targets}
        return {name: self.cut(name, d) for name, d in delta.items()}

    def cut(self, name, delta):
        if name != "pixel":
            return delta
        # rounding aside, pictures of the test lie outside [0, 1] here and there: those pixels are not pulled in
        x = self.x["pixel"]
        return torch.where(delta > 0, torch.minimum(delta, (1 - x).clamp(min=0)), torch.maximum(delta, (-x).clamp(max=0)))

    def grad(self, function, delta):
        delta = {name: d.detach().clone().requires_grad_(True) for name, d in delta.items()}
        found = torch.autograd.grad(function(delta), list(delta.values()))
        return dict(zip(delta, found))

    def climb(self, delta, grads, share):
        out = {}
        for name in self.targets:
            g, radius = grads[name] * self.mask[name], self.radius[name]
            dims = tuple(range(1, g.dim()))
            length = (g ** 2).sum(dims, keepdim=True).sqrt()
            if self.linf:
                d = delta[name] + share * radius * g.sign()
                d = torch.maximum(torch.minimum(d, radius), -radius)
            else:
                d = delta[name] + share * radius * g / length.clamp(min=1e-300)
                norm = (d ** 2).sum(dims, keepdim=True).sqrt()
                d = d * torch.where(norm > radius, radius / norm.clamp(min=1e-300), torch.ones_like(norm))
            out[name] = self.cut(name, d * self.mask[name])
        return out


def fgm(s, a, weight=1.0, smooth=0.0):
    loss = lambda delta: s.loss(s.scores(delta), smooth)  # noqa: E731
    delta = a.climb(a.zero(), a.grad(loss, a.zero()), 1.0)
    return loss({}) + weight * loss(delta), {"adv_loss": loss(delta)}


def noise(s, a):
    delta = a.start(s.drawn)
    return s.loss(s.scores()) + s.loss(s.scores(delta)), {"adv_loss": s.loss(s.scores(delta))}


def pgd(s, a, k, share, start=False, weight=1.0):
    loss = lambda delta: s.loss(s.scores(delta))  # noqa: E731
    delta = a.start(s.drawn) if start else a.zero()
    for _ in range(k - 2 if start else k - 1):
        delta = a.climb(delta, a.grad(loss, delta), share)
    return loss({}) + weight * loss(delta), {"adv_loss": loss(delta)}


def freelb(s, a, k, share, start=False):
    loss = lambda delta: s.loss(s.scores(delta))  # noqa: E731
    delta, total = a.start(s.drawn) if start else a.zero(), 0.0
    for i in range(k):
        last = loss(delta)
        total = total + last / k
        if i + 1 < k:
            delta = a.climb(delta, a.grad(loss, delta), share)
    return total, {"adv_loss": last}


def villa(s, targets, eps, k, share, kl=1.0, weight=1.0, both=True, start=False):
    clean = s.scores()
    anchor = clean if both else clean.detach()
    total, losses, kls = s.loss(clean), [], []
    for name in targets:
        a = Adversary(s, [name], eps)

        def one(delta, hold):
            z = s.scores(delta)
            return s.loss(z) + kl * symmetric_kl(z, hold)

        delta = a.start(s.drawn) if start else a.climb(a.zero(), a.grad(lambda d: one(d, clean.detach()), a.zero()), share)
        for i in range(1, k):
            total = total + weight / (k - 1) * one(delta, anchor)
            last = delta
            delta = a.climb(delta, a.grad(lambda d: one(d, clean.detach()), delta), share)
        losses.append(s.loss(s.scores(last)))
        kls.append(symmetric_kl(s.scores(last), clean))
    return total, {"adv_loss": sum(losses) / len(losses), "adv_kl": sum(kls) / len(kls)}


def smart(s, a, k, share, weight=1.0, both=True):
    clean = s.scores()
    delta = a.start(s.drawn)
    for _ in range(k - 2):
        delta = a.climb(delta, a.grad(lambda d: symmetric_kl(s.scores(d), clean.detach()), delta), share)
    kl = symmetric_kl(s.scores(delta), clean if both else clean.detach())
    return s.loss(clean) + weight * kl, {"adv_kl": kl, "adv_loss": s.loss(s.scores(delta))}


def free(s, a, k):
    """The weights are held in a probe, so the last of the replays is the gradient at the carried perturbation."""
    loss = lambda delta: s.loss(s.scores(delta))  # noqa: E731
    delta = a.zero()
    for _ in range(k - 1):
        delta = a.climb(delta, a.grad(loss, delta), 1.0)
    return loss(delta), {"adv_loss": loss(delta)}


def rdrop(s, weight, smooth=0.0):
    first = s.scores()
    s.prefix = "second."
    second = s.scores()
    s.prefix = ""
    kl = symmetric_kl(first, second)
    return 0.5 * (s.loss(first, smooth) + s.loss(second, smooth)) + 0.5 * weight * kl, {"rdrop_kl": kl}


def rdrop_fgm(s, eps):
    base, values = rdrop(s, 1.0)
    a = Adversary(s, ["text"], eps)

    def through_first(delta):
        z = s.scores(delta)
        s.prefix = "second."
        other = s.scores().detach()
        s.prefix = ""
        return 0.5 * s.loss(z) + 0.5 * symmetric_kl(z, other)

    delta = a.climb(a.zero(), a.grad(through_first, a.zero()), 1.0)
    second = s.loss(s.scores(delta))
    return base + second, {**values, "adv_loss": second}


def sam(s, rho, adaptive=False):
    """Gradients at the climbed weights; returned as gradients, since the climb is no part of the graph."""
    named = [(name, p) for name, p in s.model.named_parameters() if "pooler" not in name]
    loss = s.loss(s.scores())
    grads = torch.autograd.grad(loss, [p for _, p in named])
    scales = [p.detach().abs() + 0.01 if adaptive and name.endswith("weight") else torch.ones_like(p) for name, p in named]
    norm = sum(((t * g) ** 2).sum() for t, g in zip(scales, grads)).sqrt()
    with torch.no_grad():
        for (_, p), t, g in zip(named, scales, grads):
            p += rho * t * t * g / norm
    second = s.loss(s.scores())
    return second + (loss - second).detach(), {"sam_loss": second}


def l2_coupled(s, strength):
    penalty = sum((p ** 2).sum() for name, p in s.model.named_parameters() if p.dim() > 1 and "pooler" not in name)
    loss = s.loss(s.scores())
    return loss + 0.5 * strength * (penalty - penalty.detach()), {}


def plain(s, smooth=0.0):
    return s.loss(s.scores(), smooth), {}


T, V, U, P = "text", "feat", "fused", "pixel"
CASES = {
    # name: (spec, objective of a Step)
    "smooth": ("smooth=0.2", lambda s: plain(s, 0.2)),
    "mixup": ("mixup=0.7", plain),
    "mixup+smooth": ("mixup=1.5+smooth", lambda s: plain(s, 0.1)),
    "dropout at features": ("dropout=0.4+dropout=0.2:at=head+image+text", plain),
    "dropout in bert": ("dropout=0.2:at=bert.hidden+dropout=0.3:at=bert.attention", plain),
    "depth": ("depth=0.6", plain),
    "depth of text": ("depth=0.6:at=text+dropout=0.2:at=bert.hidden", plain),
    "l2 coupled": ("l2=0.3:mode=coupled", lambda s: l2_coupled(s, 0.3)),
    "rdrop in fusion": ("rdrop=2+dropout", lambda s: rdrop(s, 2.0)),
    "rdrop in features": ("rdrop+dropout=0.3:at=image+text", lambda s: rdrop(s, 1.0)),
    "rdrop everywhere": ("rdrop+dropout=0.2:at=fusion+bert.hidden+image+depth=0.3+smooth", lambda s: rdrop(s, 1.0, 0.1)),
    "sam": ("sam=0.1", lambda s: sam(s, 0.1)),
    "asam": ("sam:mode=asam", lambda s: sam(s, 0.5, True)),
    "fgm fused": ("adv:target=fused,rel=0.3", lambda s: fgm(s, Adversary(s, [U], 0.3))),
    "fgm pixel": ("adv:target=pixel,rel=0.05,weight=0.5", lambda s: fgm(s, Adversary(s, [P], 0.05), 0.5)),
    "fgm all, linf": ("adv:target=text+feat+fused+pixel,rel=0.05,norm=linf", lambda s: fgm(s, Adversary(s, [T, V, U, P], 0.05, linf=True))),
    "fgm pixel, linf, absolute": ("adv:target=pixel,eps=0.03,norm=linf", lambda s: fgm(s, Adversary(s, [P], 0.03, False, True))),
    "fgm with mixup and smooth": ("adv:target=text+fused,rel=0.2+mixup=1+smooth",
                                  lambda s: fgm(s, Adversary(s, [T, U], 0.2), smooth=0.1)),
    "noise": ("noise:target=text+feat+pixel,rel=0.1", lambda s: noise(s, Adversary(s, [T, V, P], 0.1))),
    "noise, linf": ("noise:target=text+fused,eps=0.05,norm=linf", lambda s: noise(s, Adversary(s, [T, U], 0.05, False, True))),
    "pgd": ("adv:method=pgd,target=text+feat,rel=0.3,weight=0.7", lambda s: pgd(s, Adversary(s, [T, V], 0.3), 3, 0.75, weight=0.7)),
    "pgd, random start": ("adv:method=pgd,k=4,init=random,target=text+pixel,rel=0.1", lambda s: pgd(s, Adversary(s, [T, P], 0.1), 4, 0.75, True)),
    "pgd, linf": ("adv:method=pgd,k=4,target=text,eps=0.02,norm=linf,step=0.5", lambda s: pgd(s, Adversary(s, [T], 0.02, False, True), 4, 0.5)),
    "freelb": ("adv:method=freelb,target=text,rel=0.3", lambda s: freelb(s, Adversary(s, [T], 0.3), 3, 0.75)),
    "freelb, random start": ("adv:method=freelb,k=2,init=0.5,target=text+feat,rel=0.3", lambda s: freelb(s, Adversary(s, [T, V], 0.3), 2, 1.5, True)),
    "freelb on pixels and pairs": ("adv:method=freelb,target=pixel+fused,rel=0.05", lambda s: freelb(s, Adversary(s, [U, P], 0.05), 3, 0.75)),
    "villa": ("adv:method=villa,target=text+feat,rel=0.2,kl=2,weight=0.5", lambda s: villa(s, [V, T], 0.2, 3, 0.75, 2.0, 0.5)),
    "villa, one side": ("adv:method=villa,target=text,rel=0.2,through=adv", lambda s: villa(s, [T], 0.2, 3, 0.75, both=False)),
    "villa, all, one side": ("adv:method=villa,k=2,target=text+feat+fused+pixel,rel=0.1,through=adv",
                             lambda s: villa(s, [U, V, T, P], 0.1, 2, 1.5, both=False)),
    "villa, random start": ("adv:method=villa,target=text+feat,rel=0.2,init=random", lambda s: villa(s, [V, T], 0.2, 3, 1.5, start=True)),
    "smart": ("adv:method=smart,target=text,rel=0.5,weight=3", lambda s: smart(s, Adversary(s, [T], 0.5), 3, 1.5, 3.0)),
    "smart, one side": ("adv:method=smart,k=4,target=text+feat,rel=0.5,through=adv",
                        lambda s: smart(s, Adversary(s, [T, V], 0.5), 4, 0.75, both=False)),
    "smart on pixels": ("adv:method=smart,target=pixel,rel=0.1,init=1", lambda s: smart(s, Adversary(s, [P], 0.1), 3, 1.5)),
    "free": ("adv:method=free,target=text+feat,rel=0.2", lambda s: free(s, Adversary(s, [T, V], 0.2), 3)),
    "free on pixels and pairs": ("adv:method=free,k=2,target=pixel+fused,eps=0.02,norm=linf", lambda s: free(s, Adversary(s, [U, P], 0.02, False, True), 2)),
    "rdrop with fgm": ("rdrop+dropout=0.3+adv:target=text,rel=0.2", lambda s: rdrop_fgm(s, 0.2)),
    "fgm with dropout everywhere": ("adv:target=text,rel=0.2+dropout=0.2:at=bert.hidden+fusion+text+depth=0.2",
                                    lambda s: fgm(s, Adversary(s, [T], 0.2))),
}
CLASSIFY = {"smooth", "mixup", "fgm fused", "villa", "smart"}


def check_batch(folder, spec, objective, task, seed):
    classes = 2 if task == "match" else 5
    model, batch = make_model("tiny", classes, seed), make_batch("tiny", task, classes, 6, seed + 1)
    batch["image"] = (np.random.default_rng(seed).random(batch["image"].shape, np.float32) - MEAN.numpy()[:, None, None]) / STD.numpy()[:, None, None]
    tensors.write(folder / "w.safetensors", {name: value.numpy() for name, value in model.state_dict().items()})
    tensors.write(folder / "b.safetensors", batch)
    run_ok("trainer", "probe", "--preset", "tiny", "--task", task, "--weights", folder / "w.safetensors", "--batch", folder / "b.safetensors",
           "--reg", spec, "--seed", 5, "--step", 7, "--out", folder / "o.safetensors", "--threads", 1)
    ours = tensors.read(folder / "o.safetensors")
    s = Step(model, batch, ours)
    total, values = objective(s)
    s.model.zero_grad(set_to_none=True)
    total.backward()
    for name, value in {"objective": total, **values}.items():
        assert abs(float(ours[name]) - value.item()) <= VALUE_LIMIT * max(1.0, abs(value.item())), (name, float(ours[name]), value.item())
    errors = {}
    for name, p in s.model.named_parameters():
        if p.grad is not None and not is_zero_in_theory(name + ".grad"):
            errors[name] = tensors.distance(ours[name + ".grad"], p.grad.numpy())
    return errors


@pytest.mark.parametrize("task,name", [("match", name) for name in CASES] + [("classify", name) for name in sorted(CLASSIFY)])
def test_gradients(tmp_path, task, name):
    spec, objective = CASES[name]
    worst = {}
    for seed in range(BATCHES):
        errors = check_batch(tmp_path, spec, objective, task, 100 * seed + 3)
        at = max(errors, key=errors.get)
        print(f"{spec}: worst {errors[at]:.2e} at {at}")
        if errors[at] <= GRADIENT_LIMIT:
            return
        worst[at] = errors[at]
    pytest.fail(f"none of {BATCHES} batches is within {GRADIENT_LIMIT}: {worst}")


METHODS = ["fgm", "pgd,k=4,init=random", "freelb", "villa", "smart", "free", "noise"]


def probe(folder, weights, batch, spec):
    tensors.write(folder / "b.safetensors", batch)
    run_ok("trainer", "probe", "--preset", "tiny", "--task", "match", "--weights", weights, "--batch", folder / "b.safetensors", "--reg", spec, "--seed", 5,
           "--step", 7, "--out", folder / "o.safetensors", "--threads", 1)
    return tensors.read(folder / "o.safetensors")


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_only_words_are_perturbed(tmp_path, norm):
    """[CLS], [SEP] and padding keep their embeddings to the bit, in every method; every other token moves."""
    batch = make_batch("tiny", "match", 2, 6, 1)
    weights = tmp_path / "w.safetensors"
    tensors.write(weights, {name: value.numpy() for name, value in make_model("tiny", 2, 3).state_dict().items()})
    lengths = batch["attention_mask"].sum(1)
    words = np.arange(batch["input_ids"].shape[1])[None, :]
    words = (words > 0) & (words < lengths[:, None] - 1)
    assert not words[0].any()  # a caption of [CLS] and [SEP] alone
    for method in METHODS:
        out = probe(tmp_path, weights, batch, f"adv:method={method},target=text+feat,rel=0.2,norm={norm}")
        for name in ("start.text", "delta.text"):
            moved = np.abs(out.get(name, np.zeros((*words.shape, 1)))).max(2) > 0
            assert not moved[~words].any(), (method, name)
        assert moved[words].all(), method


def test_padding_changes_nothing(tmp_path):
    """More columns of padding, and other ids in them: the same bits."""
    batch = make_batch("tiny", "match", 2, 6, 1)
    weights = tmp_path / "w.safetensors"
    tensors.write(weights, {name: value.numpy() for name, value in make_model("tiny", 2, 3).state_dict().items()})
    wide = {**batch, "input_ids": np.pad(batch["input_ids"], ((0, 0), (0, 7))), "attention_mask": np.pad(batch["attention_mask"], ((0, 0), (0, 7)))}
    wide["input_ids"][wide["attention_mask"] == 0] = 9
    for method in METHODS:
        spec = f"adv:method={method},target=text,rel=0.2"
        narrow, padded = probe(tmp_path, weights, batch, spec), probe(tmp_path, weights, wide, spec)
        for name, value in narrow.items():
            other = padded[name]
            if name.endswith(".text"):
                other = other[:, :value.shape[1]]
            assert np.array_equal(value, other), (method, name)
