// Runs a target where there is no libFuzzer: the corpus, then mutations of it that depend on the
// seed alone.
//
//   TARGET [-max_total_time=SECONDS | -runs=N] [-seed=S] [-timeout=SECONDS] FILE_OR_FOLDER...
//
// Other options of libFuzzer are accepted and ignored. An input that crashes or hangs is written to
// the file "crash-input".
#include <sanitizer/common_interface_defs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Data = std::vector<std::uint8_t>;

const Data* running = nullptr;

void save_input() {
    std::FILE* file = running == nullptr ? nullptr : std::fopen("crash-input", "wb");
    if (file == nullptr) return;
    std::fwrite(running->data(), 1, running->size(), file);
    std::fclose(file);
    std::fprintf(stderr, "the input is in the file crash-input\n");
}

void stop(int signal) {
    std::fprintf(stderr, signal == SIGALRM ? "timeout\n" : "aborted\n");
    save_input();
    std::_Exit(1);
}

struct Random {
    std::uint64_t state;

    // SplitMix64 (Steele, Lea and Flood 2014).
    std::uint64_t next() {
        std::uint64_t z = state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
    }
    std::size_t below(std::size_t limit) { return static_cast<std::size_t>(next() % limit); }
};

constexpr std::uint8_t kEdges[] = {0x00, 0x01, 0x7f, 0x80, 0xff};

void mutate_once(Data& data, const std::vector<Data>& corpus, Random& random) {
    const std::size_t at = data.empty() ? 0 : random.below(data.size());
    switch (data.empty() ? 5 : random.below(9)) {
        case 0:
        case 1:
            data[at] = static_cast<std::uint8_t>(data[at] ^ 1u << random.below(8));
            break;
        case 2:
            data[at] = static_cast<std::uint8_t>(random.next());
            break;
        case 3:
            data[at] = kEdges[random.below(std::size(kEdges))];
            break;
        case 4:
            data.resize(at);
            break;
        case 5:
            for (std::size_t i = random.below(8) + 1; i > 0; --i) {
                data.push_back(static_cast<std::uint8_t>(random.next()));
            }
            break;
        case 6:
            data.erase(data.begin() + static_cast<std::ptrdiff_t>(at));
            break;
        case 7:
            data.insert(data.begin() + static_cast<std::ptrdiff_t>(at),
                        static_cast<std::uint8_t>(random.next()));
            break;
        default: {  // the head of this, the tail of another
            const Data& other = corpus[random.below(corpus.size())];
            if (at >= other.size()) break;
            data.resize(at);
            data.insert(data.end(), other.begin() + static_cast<std::ptrdiff_t>(at), other.end());
        }
    }
}

void run(const Data& data, unsigned timeout) {
    // A copy of exactly its size, so that AddressSanitizer sees any read beyond it.
    const std::unique_ptr<std::uint8_t[]> exact(new std::uint8_t[data.size()]);
    if (!data.empty()) std::memcpy(exact.get(), data.data(), data.size());
    running = &data;
    alarm(timeout);
    LLVMFuzzerTestOneInput(exact.get(), data.size());
    alarm(0);
    running = nullptr;
}

void load(const std::filesystem::path& path, std::vector<Data>& corpus) {
    std::vector<std::filesystem::path> files;
    if (std::filesystem::is_directory(path)) {
        for (const auto& entry : std::filesystem::directory_iterator(path)) {
            files.push_back(entry.path());
        }
        std::sort(files.begin(), files.end());
    } else {
        files.push_back(path);
    }
    for (const auto& file : files) {
        std::ifstream stream(file, std::ios::binary);
        corpus.emplace_back(std::istreambuf_iterator<char>(stream),
                            std::istreambuf_iterator<char>());
    }
}

}  // namespace

int main(int count, char** arguments) {
    std::uint64_t seconds = 0;
    std::uint64_t runs = 0;
    std::uint64_t seed = 1;
    std::uint64_t timeout = 10;
    std::vector<Data> corpus;
    for (int i = 1; i < count; ++i) {
        const std::string argument = arguments[i];
        const auto option = [&](const char* name, std::uint64_t& value) {
            if (argument.rfind(name, 0) == 0)
                value = std::stoull(argument.substr(std::strlen(name)));
        };
        option("-max_total_time=", seconds);
        option("-runs=", runs);
        option("-seed=", seed);
        option("-timeout=", timeout);
        if (argument[0] != '-') load(argument, corpus);
    }
    __sanitizer_set_death_callback(save_input);
    std::signal(SIGABRT, stop);
    std::signal(SIGALRM, stop);
    for (const Data& data : corpus) run(data, static_cast<unsigned>(timeout));
    if (corpus.empty()) corpus.emplace_back();
    Random random{seed};
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    std::uint64_t done = 0;
    Data data;
    while (seconds > 0 ? std::chrono::steady_clock::now() < end : done < runs) {
        data = corpus[random.below(corpus.size())];
        for (std::size_t i = random.below(4) + 1; i > 0; --i) mutate_once(data, corpus, random);
        run(data, static_cast<unsigned>(timeout));
        ++done;
    }
    std::printf("Done %llu runs\n", static_cast<unsigned long long>(done + corpus.size()));
    return 0;
}
