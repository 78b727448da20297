#include "container/blake3.hpp"

#include <algorithm>
#include <cstring>

#include "container/blake3_compress.hpp"

namespace tersor {
namespace {

using namespace blake3;

constexpr size_t kMaxSubtree = 64;  // chunks that are hashed together

// What is left to compress last: only then is it known whether it is the root of the tree.
struct Node {
    Words chaining;
    std::array<uint8_t, kBlockBytes> block;
    uint64_t counter;
    uint32_t bytes;
    uint32_t flags;

    Words value() const noexcept {
        Words words;
        std::copy_n(compress(chaining, block.data(), counter, bytes, flags).begin(), 8,
                    words.begin());
        return words;
    }
};

Node parent(const Words& left, const Words& right) noexcept {
    Node node{kIv, {}, 0, kBlockBytes, kParent};
    std::memcpy(node.block.data(), left.data(), sizeof left);
    std::memcpy(node.block.data() + sizeof left, right.data(), sizeof right);
    return node;
}

// The last block of a chunk of 0 to 1024 bytes, after all blocks before it.
Node last_block(std::span<const uint8_t> chunk, uint64_t counter) noexcept {
    Node node{kIv, {}, counter, 0, kChunkStart};
    while (chunk.size() > kBlockBytes) {
        const auto words = compress(node.chaining, chunk.data(), counter, kBlockBytes, node.flags);
        std::copy_n(words.begin(), 8, node.chaining.begin());
        node.flags = kNone;
        chunk = chunk.subspan(kBlockBytes);
    }
    std::copy(chunk.begin(), chunk.end(), node.block.begin());
    node.bytes = static_cast<uint32_t>(chunk.size());
    node.flags |= kChunkEnd;
    return node;
}

}  // namespace

void Blake3::add_subtree(const uint8_t* data, size_t chunks) noexcept {
    std::array<Words, kMaxSubtree> values;
    hash_batch({data, chunks, kChunkBytes / kBlockBytes, chunks_, 1, kNone, kChunkStart, kChunkEnd},
               values.data());
    for (size_t left = chunks; left > 1; left /= 2) {
        // Two chaining values side by side are the block of their parent.
        std::array<Words, kMaxSubtree / 2> parents;
        const auto blocks = reinterpret_cast<const uint8_t*>(values.data());
        hash_batch({blocks, left / 2, 1, 0, 0, kParent, kNone, kNone}, parents.data());
        std::copy_n(parents.begin(), left / 2, values.begin());
    }
    // The new root joins the roots of equal size, as a carry moves through a binary counter.
    size_t depth = static_cast<size_t>(std::popcount(chunks_));
    Words root = values[0];
    for (uint64_t carry = chunks; (chunks_ & carry) != 0; carry *= 2) {
        root = parent(roots_[--depth], root).value();
    }
    roots_[depth] = root;
    chunks_ += chunks;
}

void Blake3::update(std::span<const uint8_t> data) noexcept {
    while (!data.empty()) {
        if (tail_bytes_ == kChunkBytes) {
            add_subtree(tail_.data(), 1);
            tail_bytes_ = 0;
        }
        if (tail_bytes_ == 0 && data.size() > kChunkBytes) {
            // The largest aligned subtree that leaves at least a byte for the last chunk.
            size_t chunks = std::min(kMaxSubtree, std::bit_floor((data.size() - 1) / kChunkBytes));
            while (chunks_ % chunks != 0) chunks /= 2;
            add_subtree(data.data(), chunks);
            data = data.subspan(chunks * kChunkBytes);
            continue;
        }
        const size_t taken = std::min(data.size(), kChunkBytes - tail_bytes_);
        std::copy_n(data.begin(), taken, tail_.begin() + static_cast<std::ptrdiff_t>(tail_bytes_));
        tail_bytes_ += taken;
        data = data.subspan(taken);
    }
}

Blake3::Digest Blake3::digest() const noexcept {
    Node node = last_block({tail_.data(), tail_bytes_}, chunks_);
    for (size_t depth = static_cast<size_t>(std::popcount(chunks_)); depth-- > 0;) {
        node = parent(roots_[depth], node.value());
    }
    const auto words =
        compress(node.chaining, node.block.data(), 0, node.bytes, node.flags | kRoot);
    Digest digest;
    static_assert(sizeof words == sizeof digest);
    std::memcpy(digest.data(), words.data(), sizeof words);
    return digest;
}

}  // namespace tersor
