#include <algorithm>

#include "container/text_model.hpp"

namespace tersor::text {
namespace {

constexpr size_t kMatchMinimum = 5;
constexpr size_t kMatchCap = 31;
constexpr uint32_t kLargestNumber = 999'999;

constexpr bool is_digit(uint8_t byte) noexcept { return byte >= '0' && byte <= '9'; }

constexpr uint32_t mix(uint32_t hash, uint32_t value) noexcept {
    hash = (hash ^ (value + 1)) * 0x9E3779B1u;
    return hash ^ (hash >> 15);
}

// Digit `index` from the left of `value`, or -1 behind its end. The digits before must equal those
// of `prefix`.
int next_digit(uint32_t value, uint32_t prefix, uint32_t index) noexcept {
    uint32_t length = 1;
    for (uint32_t rest = value / 10; rest > 0; rest /= 10) ++length;
    if (index >= length) return -1;
    for (uint32_t drop = length - index - 1; drop > 0; --drop) value /= 10;
    if (index > 0 && value / 10 != prefix) return -1;
    return static_cast<int>('0' + value % 10);
}

}  // namespace

History::History()
    : ring_(std::make_unique_for_overwrite<uint8_t[]>(kRingBytes)),
      recent_(std::make_unique<uint32_t[]>(kMatchSlots)) {
    // The contexts look four bytes back; the rest of the ring is not read before it is written.
    std::fill_n(ring_.get() + kRingBytes - 4, 4, uint8_t{0});
    set_contexts();
}

void History::append(uint8_t byte) noexcept {
    ring_[size_ & (kRingBytes - 1)] = byte;
    ++size_;
    follow_match();
    follow_name(byte);
    set_contexts();
    set_number_guesses();
}

void History::follow_match() noexcept {
    if (match_bytes_ > 0 && ring_[match_at_ & (kRingBytes - 1)] == back(1)) {
        ++match_at_;
        match_bytes_ += match_bytes_ < kMatchCap;
    } else {
        match_bytes_ = 0;
    }
    if (size_ < kMatchMinimum) return;
    uint32_t hash = 0;
    for (size_t i = 1; i <= kMatchMinimum; ++i) hash = mix(hash, back(i));
    uint32_t& slot = recent_[hash % kMatchSlots];
    if (match_bytes_ == 0 && slot > 0) {
        match_at_ = slot;
        const size_t reach = size_ - match_at_;
        while (match_bytes_ < kMatchCap && match_bytes_ < match_at_ &&
               reach + match_bytes_ < kRingBytes &&
               back(match_bytes_ + 1) == back(reach + match_bytes_ + 1)) {
            ++match_bytes_;
        }
    }
    slot = static_cast<uint32_t>(size_);
}

void History::end_number() noexcept {
    if (digits_ > 0 && field_ < kFields) {
        const Number& above = numbers_above_[field_];
        const bool stepped = above.present && value_ > above.value;
        numbers_[field_] = {value_, stepped ? value_ - above.value : above.step, true};
        ++field_;
    }
    digits_ = value_ = 0;
}

void History::follow_name(uint8_t byte) noexcept {
    if (is_digit(byte)) {
        if (digits_ == 0) skeleton_ = mix(skeleton_, '0');
        ++digits_;
        value_ = value_ > kLargestNumber / 10 ? kLargestNumber : value_ * 10 + (byte - '0');
    } else {
        end_number();
        skeleton_ = mix(skeleton_, byte);
    }
    if (byte == 0) {
        above_ = skeleton_;
        skeleton_ = 0;
        for (size_t i = field_; i < kFields; ++i) numbers_[i].present = false;
        numbers_above_ = numbers_;
        field_ = 0;
    }
}

void History::set_contexts() noexcept {
    std::array<uint32_t, 5> orders{};  // hashes of the last bytes
    for (size_t i = 1; i <= 4; ++i) orders[i] = mix(orders[i - 1], back(i));
    contexts_ = {0,
                 orders[1],
                 orders[2],
                 orders[4],
                 back(2),
                 mix(skeleton_, digits_),
                 mix(mix(skeleton_, above_), digits_)};
    guesses_[0] = {match_bytes_ > 0 ? ring_[match_at_ & (kRingBytes - 1)] : -1,
                   static_cast<uint32_t>(match_bytes_)};
}

void History::set_number_guesses() noexcept {
    const uint32_t place = mix(mix(skeleton_, above_), digits_);
    guesses_[1] = guesses_[2] = {};
    if (field_ >= kFields || !numbers_above_[field_].present) return;
    const Number& above = numbers_above_[field_];
    guesses_[1] = {next_digit(above.value, value_, digits_), place};
    guesses_[2] = {next_digit(above.value + above.step, value_, digits_), place};
}

}  // namespace tersor::text
