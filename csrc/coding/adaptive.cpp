#include "coding/adaptive.hpp"

#include <algorithm>
#include <cstdlib>
#include <type_traits>
#include <utility>
#include <vector>

#include "coding/binary_arithmetic.hpp"
#include "coding/row_history.hpp"
#include "coding/tensor_head.hpp"
#include "coding/trellis_path.hpp"
#include "cpu.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#define TERSOR_AVX2 __attribute__((target("avx2,bmi,bmi2,lzcnt"), flatten))
#else
#define TERSOR_AVX2
#endif

namespace tersor {
namespace {

constexpr unsigned kMaxUnsignedBits = 8;

// A stream of values, the distances of symbols from the centre, while it is walked over. Where
// values are indices of a trellis, what is remembered of them and predicted from that are their
// codes, which are about twice as large.
template <typename Coder>
class WeightWalk {
  public:
    WeightWalk(Coder& coder, WeightModel& model, const TensorShape& shape, const TensorHead& head)
        : coder_(coder),
          model_(model),
          shape_(shape),
          head_(head),
          scales_(model.scale, shape),
          leanings_(shape.kernel > 1 ? 0 : shape.row_length()),
          history_(shape),
          path_(shape.states),
          place_(Place::start(shape)) {
        scales_.start_row();
    }

    // Whether the row or channel of this position holds nothing but the centre.
    bool is_dead() const noexcept {
        return head_.rows.is_dead(row_) || head_.channels.is_dead(place_.channel);
    }

    // Codes the value of this position (when decoding: any). A decoded one may be out of range.
    std::int32_t code(std::int32_t value) {
        const std::int32_t* before = history_.values(place_.column);
        const Magnitudes near = history_.magnitudes_near(place_);
        const Scale scale = scales_.predict(place_, near);
        ValuePrediction predicted{};
        const bool halves = path_.is_doubled();
        if (shape_.kernel > 1)
            predicted = predict_value(model_.value, place_, before, scale.mean << halves);
        const std::int32_t expected = predicted.value >> halves;
        const std::int32_t centre =
            head_.is_spiked ? 0 : std::clamp((expected + 128) >> 8, head_.least, head_.most);
        Signs signs = history_.signs_near(place_);
        if (shape_.kernel == 1) signs.column = leanings_.level(place_.column);
        const Outlook now = outlook_of(scale, expected - centre * 256, grid_state());
        const std::int32_t residual =
            model_.code(coder_, place_, near, signs, now,
                        {head_.least - centre, head_.most - centre}, value - centre);
        value = residual + centre;
        const std::int32_t number = path_.code(value);
        const auto magnitude = static_cast<std::uint32_t>(std::abs(number - path_.code(centre)));
        scales_.learn(place_, scale, magnitude);
        if (shape_.kernel > 1) {
            learn_value(model_.value, place_, before, predicted, number);
        } else {
            leanings_.learn(place_.column, number);
        }
        history_.put(place_, number, magnitude);
        path_.advance(value);
        return value;
    }

    // Goes on without coding: the position counts as the centre.
    void skip_pruned() noexcept { history_.put(place_, 0, 0); }
    void skip_dead() noexcept {
        history_.put(place_, 0, 0);
        path_.advance(0);
    }

    void advance() {
        place_.advance(shape_);
        if (place_.column < shape_.row_length()) return;
        place_ = Place::start(shape_);
        ++row_;
        scales_.start_row();
        path_.start_row();
        history_.next_row();
    }

  private:
    GridState grid_state() const noexcept { return {shape_.states, path_.state(), path_.is_odd()}; }

    Coder& coder_;
    WeightModel& model_;
    const TensorShape& shape_;
    const TensorHead& head_;
    ScalePredictor scales_;
    ColumnLeanings leanings_;
    RowHistory history_;
    TrellisPath path_;
    Place place_;
    std::size_t row_ = 0;
};

// Runs over all kept symbols. value_at(i) gives what to encode (or anything), store(i, value) takes
// what was coded. False if a decoded value is out of range.
template <typename Coder, typename ValueAt, typename Store>
bool walk_plainly(Coder& coder, WeightModel& model, std::size_t count, const TensorShape& shape,
                  const TensorHead& head, std::span<const std::uint8_t> kept, ValueAt value_at,
                  Store store) {
    WeightWalk<Coder> walker(coder, model, shape, head);
    for (std::size_t i = 0; i < count; ++i, walker.advance()) {
        if (!kept.empty() && kept[i] == 0) {
            walker.skip_pruned();
        } else if (walker.is_dead()) {
            walker.skip_dead();
            store(i, 0);
        } else {
            const std::int32_t value = walker.code(value_at(i));
            if (value < head.least || value > head.most) return false;
            store(i, value);
        }
    }
    return true;
}

// The same, compiled as one function for a newer instruction set.
template <typename Coder, typename ValueAt, typename Store>
TERSOR_AVX2 bool walk_avx2(Coder& coder, WeightModel& model, std::size_t count,
                           const TensorShape& shape, const TensorHead& head,
                           std::span<const std::uint8_t> kept, ValueAt value_at, Store store) {
    return walk_plainly(coder, model, count, shape, head, kept, value_at, store);
}

template <typename Coder, typename ValueAt, typename Store>
bool walk(Coder& coder, WeightModel& model, std::size_t count, const TensorShape& shape,
          const TensorHead& head, std::span<const std::uint8_t> kept, ValueAt value_at,
          Store store) {
    if (active_isa() == Isa::scalar) {
        return walk_plainly(coder, model, count, shape, head, kept, value_at, store);
    }
    return walk_avx2(coder, model, count, shape, head, kept, value_at, store);
}

// Symbols as integers around their centre.
template <typename T>
struct Centred {
    SymbolKind kind;
    std::int32_t centre;

    bool is_signed() const noexcept { return kind.offset != 0; }
    std::int32_t value(T symbol) const noexcept {
        if (is_signed()) return static_cast<std::make_signed_t<T>>(symbol);
        return static_cast<std::int32_t>(symbol) - centre;
    }
    T symbol(std::int32_t value) const noexcept { return static_cast<T>(value + centre); }
    std::int32_t least() const noexcept {
        return is_signed() ? -static_cast<std::int32_t>(kind.offset) : -centre;
    }
    std::int32_t most() const noexcept {
        return least() + static_cast<std::int32_t>(kind.alphabet()) - 1;
    }
};

template <typename T>
std::int32_t commonest(std::span<const T> symbols, std::span<const std::uint8_t> kept) {
    std::array<std::uint32_t, 256> counts{};
    for (std::size_t i = 0; i < symbols.size(); ++i) {
        if (kept.empty() || kept[i] != 0) ++counts[symbols[i] & 255];
    }
    return static_cast<std::int32_t>(std::max_element(counts.begin(), counts.end()) -
                                     counts.begin());
}

WeightModel& model_of(CodingState& state, SymbolKind kind, Neighbourhood near, std::size_t slot) {
    if (kind.offset == 0) return state.model(slot);
    if (near.states == 1) return state.model(CodingState::kSigned);
    return state.model(near.states == 4 ? CodingState::kTrellis4 : CodingState::kTrellis8);
}

// Unsigned symbols are of no trellis.
TensorShape shape_of(SymbolKind kind, Neighbourhood near) {
    return TensorShape::of(near.row_length, near.kernel, kind.offset == 0 ? 1 : near.states);
}

template <typename T>
Bytes encode_in(WeightModel& model, std::span<const T> symbols, SymbolKind kind, Neighbourhood near,
                std::span<const std::uint8_t> kept) {
    BinaryEncoder coder;
    Centred<T> centred{kind, 0};
    if (!centred.is_signed()) {
        centred.centre = commonest(symbols, kept);
        code_number(coder, model, kind.bits, static_cast<std::uint32_t>(centred.centre));
    }
    const auto value_at = [&](std::size_t i) { return centred.value(symbols[i]); };
    const TensorShape shape = shape_of(kind, near);
    TensorHead head = describe(symbols.size(), shape, kept, value_at);
    head.least = centred.least();
    head.most = centred.most();
    code_head(coder, model, head);
    walk(coder, model, symbols.size(), shape, head, kept, value_at, [](std::size_t, int) {});
    return coder.finish();
}

template <typename T>
bool decode_in(WeightModel& model, ByteView blob, std::span<T> symbols, SymbolKind kind,
               Neighbourhood near, std::span<const std::uint8_t> kept) {
    BinaryDecoder coder(blob);
    Centred<T> centred{kind, 0};
    if (!centred.is_signed()) {
        centred.centre = static_cast<std::int32_t>(code_number(coder, model, kind.bits, 0));
    }
    const TensorShape shape = shape_of(kind, near);
    TensorHead head = blank_head(symbols.size(), shape);
    head.least = centred.least();
    head.most = centred.most();
    code_head(coder, model, head);
    const auto store = [&](std::size_t i, std::int32_t value) {
        symbols[i] = centred.symbol(value);
    };
    return walk(
               coder, model, symbols.size(), shape, head, kept, [](std::size_t) { return 0; },
               store) &&
           coder.finished();
}

}  // namespace

WeightModel& CodingState::model(std::size_t slot) {
    std::shared_ptr<WeightModel>& model = models_[slot];
    if (!model) {
        model = std::make_shared<WeightModel>(slot == kTrellis4 ? 4u : slot == kTrellis8 ? 8u : 1u);
    } else if (model.use_count() > 1) {
        model = std::make_shared<WeightModel>(*model);
    }
    return *model;
}

template <typename T>
Bytes adaptive_encode(std::span<const T> symbols, SymbolKind kind, Neighbourhood near,
                      std::size_t slot, std::span<const std::uint8_t> kept, CodingState& state) {
    return encode_in(model_of(state, kind, near, slot), symbols, kind, near, kept);
}

template <typename T>
bool adaptive_decode(ByteView blob, std::span<T> symbols, SymbolKind kind, Neighbourhood near,
                     std::size_t slot, std::span<const std::uint8_t> kept, CodingState& state) {
    if (kind.offset == 0 && kind.bits > kMaxUnsignedBits) return false;
    return decode_in(model_of(state, kind, near, slot), blob, symbols, kind, near, kept);
}

Bytes mask_encode(std::span<const std::uint8_t> mask, Neighbourhood near, CodingState& state) {
    return encode_in(state.model(CodingState::kMask), mask, SymbolKind{1, 0}, near, {});
}

bool mask_decode(ByteView blob, std::span<std::uint8_t> mask, Neighbourhood near,
                 CodingState& state) {
    return decode_in(state.model(CodingState::kMask), blob, mask, SymbolKind{1, 0}, near, {});
}

template Bytes adaptive_encode<std::uint8_t>(std::span<const std::uint8_t>, SymbolKind,
                                             Neighbourhood, std::size_t,
                                             std::span<const std::uint8_t>, CodingState&);
template Bytes adaptive_encode<std::uint16_t>(std::span<const std::uint16_t>, SymbolKind,
                                              Neighbourhood, std::size_t,
                                              std::span<const std::uint8_t>, CodingState&);
template bool adaptive_decode<std::uint8_t>(ByteView, std::span<std::uint8_t>, SymbolKind,
                                            Neighbourhood, std::size_t,
                                            std::span<const std::uint8_t>, CodingState&);
template bool adaptive_decode<std::uint16_t>(ByteView, std::span<std::uint16_t>, SymbolKind,
                                             Neighbourhood, std::size_t,
                                             std::span<const std::uint8_t>, CodingState&);

}  // namespace tersor
