// What the text model has read before the first byte: names that occur in PyTorch networks.
#pragma once

#include <string_view>

namespace tersor::text {

using namespace std::string_view_literals;

// NUL-terminated. The beginnings of a list follow each other as in a file, and the smallest
// networks come last, since their names have the least room to be learned.
constexpr std::string_view kDictionary =
    "embeddings.word_embeddings.weight\0embeddings.LayerNorm.weight\0embeddings.LayerNorm.bias\0"
    "encoder.layer.0.attention.self.query.weight\0encoder.layer.0.attention.self.query.bias\0"
    "encoder.layer.0.attention.self.key.weight\0encoder.layer.0.attention.output.dense.weight\0"
    "encoder.layer.0.intermediate.dense.weight\0encoder.layer.1.output.dense.bias\0"
    "transformer.wte.weight\0transformer.h.0.ln_1.weight\0transformer.h.0.attn.c_attn.weight\0"
    "transformer.h.0.attn.c_proj.bias\0transformer.h.1.mlp.c_fc.weight\0"
    "blocks.0.norm1.weight\0blocks.0.attn.qkv.weight\0blocks.0.attn.proj.weight\0"
    "blocks.0.mlp.fc1.bias\0blocks.1.mlp.fc2.bias\0patch_embed.proj.weight\0"
    "norm.weight\0head.weight\0head.bias\0model.embed_tokens.weight\0"
    "model.layers.0.self_attn.q_proj.weight\0model.layers.0.self_attn.k_proj.weight\0"
    "model.layers.0.self_attn.v_proj.weight\0model.layers.0.self_attn.o_proj.weight\0"
    "model.layers.0.mlp.gate_proj.weight\0model.layers.0.mlp.up_proj.weight\0"
    "model.layers.0.mlp.down_proj.weight\0model.layers.0.input_layernorm.weight\0"
    "model.layers.0.post_attention_layernorm.weight\0model.layers.1.self_attn.q_proj.weight\0"
    "model.norm.weight\0lm_head.weight\0rnn.weight_ih_l0\0rnn.weight_hh_l0\0rnn.bias_ih_l0\0"
    "rnn.bias_hh_l0\0lstm.weight_ih_l0\0embedding.weight\0linear.weight\0linear.bias\0"
    "features.0.weight\0features.0.bias\0features.3.weight\0features.3.bias\0"
    "classifier.1.weight\0classifier.1.bias\0classifier.weight\0classifier.bias\0"
    "conv1.weight\0bn1.weight\0bn1.bias\0bn1.running_mean\0bn1.running_var\0"
    "bn1.num_batches_tracked\0layer1.0.conv1.weight\0layer1.0.bn1.weight\0layer1.0.bn1.bias\0"
    "layer1.0.bn1.running_mean\0layer1.0.bn1.running_var\0layer1.0.bn1.num_batches_tracked\0"
    "layer2.0.downsample.0.weight\0fc.weight\0fc.bias\0conv1.weight\0conv1.bias\0conv2.weight\0"
    "conv2.bias\0"
    "0.weight\0"
    "0.bias\0"
    "2.weight\0"
    "2.bias\0"
    "fc1.weight\0fc1.bias\0fc2.weight\0fc2.bias\0fc3.weight\0fc3.bias\0"sv;

}  // namespace tersor::text
