// Reads control vectors as llama-server does, with llama.cpp's own function, and writes the floats that it would hand to
// llama_set_adapter_cvec: the width first, then every layer from 1 on.
#include "common.h"
#include <cstdio>

int main(int argc, char ** argv) {
    std::vector<common_control_vector_load_info> files;
    for (int i = 2; i < argc; ++i) {
        files.push_back({ 1.0f, argv[i] });
    }
    const common_control_vector_data data = common_control_vector_load(files);
    std::FILE * out = std::fopen(argv[1], "wb");
    if (out == nullptr) {
        return 2;
    }
    const int32_t width = data.n_embd;
    std::fwrite(&width, sizeof width, 1, out);
    std::fwrite(data.data.data(), sizeof(float), data.data.size(), out);
    std::fclose(out);
    return width < 0 ? 1 : 0;
}
