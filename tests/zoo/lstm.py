"""The language model of Zaremba et al. 2014: an embedding, two LSTM layers with dropout between, and a decoder, whose
weights may be the embedding's (Press & Wolf 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from tests.zoo.entry import Entry, tokens


class LanguageModel(nn.Module):
    """Token ids int64 (batch, length) -> logits (batch, length, vocabulary)."""

    def __init__(
        self, vocabulary: int, embedded: int, hidden: int, tied: bool = False, recurrent: str = "LSTM"
    ) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.encoder = nn.Embedding(vocabulary, embedded)
        self.rnn = getattr(nn, recurrent)(embedded, hidden, 2, dropout=0.5, batch_first=True)
        self.decoder = nn.Linear(hidden, vocabulary)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, ids: Tensor) -> Tensor:
        output, _ = self.rnn(self.drop(self.encoder(ids)))
        return self.decoder(self.drop(output))


def _entry(name: str, removed: float, tied: bool = False, recurrent: str = "LSTM") -> Entry:
    return Entry(
        name,
        lambda: LanguageModel(40, 16, 16 if tied else 24, tied, recurrent),
        tokens(40, 7),
        lambda: LanguageModel(10_000, 650, 650, tied, recurrent),
        tokens(10_000, 35),
        removed=removed,
    )


ENTRIES = [
    _entry("lstm", 0.4),
    _entry("lstm_tied", 0.4, tied=True),
    _entry("gru", 0.4, recurrent="GRU"),
]
