"""The script's fusion model in PyTorch: the oracle of parity tests and the peer of benchmarks.

torchvision's ResNet, and BERT written out in plain torch with the names and
semantics of Hugging Face's BertModel (Debian has no transformers package).
forward(image, input_ids, attention_mask, pair_image, pair_text) gives logits.
"""
import math

import torch
from torch import nn
import torchvision.models
from torchvision.models import resnet

PRESETS = {
    "full": dict(blocks=[3, 4, 6, 3], bottleneck=True, base=64, image_size=224, layers=12, width=768, heads=12, inner=3072, features=768),
    "small": dict(blocks=[2, 2, 2, 2], bottleneck=False, base=64, image_size=112, layers=4, width=256, heads=4, inner=1024, features=768),
    "tiny": dict(blocks=[1, 1, 1, 1], bottleneck=False, base=16, image_size=64, layers=2, width=64, heads=2, inner=256, features=128),
}


def build_resnet(blocks, bottleneck, base, features):
    block = resnet.Bottleneck if bottleneck else resnet.BasicBlock
    net = resnet.ResNet(block, blocks)
    if base != 64:
        net.inplanes = base
        net.conv1 = nn.Conv2d(3, base, 7, stride=2, padding=3, bias=False)
        net.bn1 = nn.BatchNorm2d(base)
        for i in range(4):
            layer = net._make_layer(block, base << i, blocks[i], stride=1 if i == 0 else 2)
            setattr(net, f"layer{i + 1}", layer)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    net.fc = nn.Linear((base << 3) * block.expansion, features)
    return net


class Embeddings(nn.Module):
    def __init__(self, vocab, positions, types, width, dropout, eps):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(types, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids):
        positions = torch.arange(ids.shape[1], device=ids.device)
        total = self.word_embeddings(ids) + self.token_type_embeddings(torch.zeros_like(ids)) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(total))


class SelfAttention(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, bias):
        def split(y):
            return y.view(y.shape[0], y.shape[1], self.heads, -1).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias
        context = self.dropout(scores.softmax(-1)) @ v
        return context.transpose(1, 2).reshape(x.shape)


class Output(nn.Module):
    """dense, dropout, residual, LayerNorm: BertSelfOutput and BertOutput."""

    def __init__(self, inner, width, dropout, eps):
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, residual):
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Attention(nn.Module):
    def __init__(self, width, heads, dropout, eps):
        super().__init__()
        self.self = SelfAttention(width, heads, dropout)
        self.output = Output(width, width, dropout, eps)

    def forward(self, x, bias):
        return self.output(self.self(x, bias), x)


class Dense(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.dense = nn.Linear(width, inner)


class Layer(nn.Module):
    def __init__(self, width, heads, inner, dropout, eps):
        super().__init__()
        self.attention = Attention(width, heads, dropout, eps)
        self.intermediate = Dense(width, inner)
        self.output = Output(inner, width, dropout, eps)

    def forward(self, x, bias):
        x = self.attention(x, bias)
        return self.output(nn.functional.gelu(self.intermediate.dense(x)), x)


class Encoder(nn.Module):
    def __init__(self, layers, width, heads, inner, dropout, eps):
        super().__init__()
        self.layer = nn.ModuleList(Layer(width, heads, inner, dropout, eps) for _ in range(layers))


class Bert(nn.Module):
    def __init__(self, layers, width, heads, inner, vocab, positions=512, types=2, dropout=0.1, eps=1e-12):
        super().__init__()
        self.embeddings = Embeddings(vocab, positions, types, width, dropout, eps)
        self.encoder = Encoder(layers, width, heads, inner, dropout, eps)
        self.pooler = Dense(width, width)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.embeddings.word_embeddings.weight[0].zero_()

    def forward(self, ids, mask):
        x = self.embeddings(ids)
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.encoder.layer:
            x = layer(x, bias)
        return x[:, 0]


class FusionModel(nn.Module):
    """image: a torchvision ResNet's name over the preset's; text: sizes of the BERT over the preset's."""

    def __init__(self, preset, vocab=30522, classes=2, bert_dropout=0.1, fusion_dropout=0.3, image=None, text=None):
        super().__init__()
        p = dict(PRESETS[preset], **(text or {}))
        self.image_size, features = p["image_size"], p["features"]
        if image is None:
            self.image_encoder = build_resnet(p["blocks"], p["bottleneck"], p["base"], features)
        else:
            self.image_encoder = getattr(torchvision.models, image)(weights=None)
            self.image_encoder.fc = nn.Linear(self.image_encoder.fc.in_features, features)
        more = {key: p[key] for key in ("positions", "types", "eps") if key in p}
        self.text_encoder = Bert(p["layers"], p["width"], p["heads"], p["inner"], vocab, dropout=bert_dropout, **more)
        self.text_projector = nn.Linear(p["width"], features)
        self.fusion_layer = nn.Sequential(nn.Dropout(fusion_dropout), nn.Linear(2 * features, features), nn.ReLU(), nn.LayerNorm(features))
        self.head = nn.Linear(features, classes)

    def forward(self, image, input_ids, attention_mask, pair_image=None, pair_text=None):
        v = self.image_encoder(image)
        t = self.text_projector(self.text_encoder(input_ids, attention_mask))
        if pair_image is not None:
            v, t = v[pair_image], t[pair_text]
        return self.head(self.fusion_layer(torch.cat([v, t], 1)))


def off_constants(model):
    """Norms, biases and running statistics moved off what they begin with, where a mistake would not show."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif name.endswith("num_batches_tracked"):
                value.fill_(7)
            elif value.dim() == 1:
                value.add_(torch.randn_like(value) * 0.1)
    return model


def without_dropout(model):
    """Dropout off, everything else as it is."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model
