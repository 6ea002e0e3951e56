/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* libpmemblk's side of the benchmark. Reads commands on stdin and answers each with nanoseconds for the whole of it:
 *   r|w THREADS OPERATIONS SEED
 * Usage: pmemblk POOL BYTES BLOCKSIZE (the pool is made, and each block written once in random order). */
#include <inttypes.h>
#include <libpmemblk.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static PMEMblkpool *pool;
static size_t block_size, block_count;

static uint64_t mix(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

struct job {
    int write;
    uint64_t operations, seed;
};

static void *work(void *arg) {
    struct job *job = arg;
    uint64_t state = job->seed;
    unsigned char *buffer = aligned_alloc(4096, 4096);
    memset(buffer, (int)job->seed, 4096);
    for (uint64_t i = 0; i < job->operations; i++) {
        long long at = (long long)(mix(&state) % block_count);
        int failed = job->write ? pmemblk_write(pool, buffer, at) : pmemblk_read(pool, buffer, at);
        if (failed) {
            perror("pmemblk");
            exit(1);
        }
    }
    free(buffer);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    block_size = strtoull(argv[3], NULL, 0);
    pool = pmemblk_create(argv[1], block_size, strtoull(argv[2], NULL, 0), 0600);
    if (!pool) {
        perror(argv[1]);
        return 1;
    }
    block_count = pmemblk_nblock(pool);
    struct job fill = {1, 2 * block_count, 1};
    work(&fill);
    puts("ready");
    fflush(stdout);

    char op;
    unsigned threads;
    uint64_t operations, seed;
    while (scanf(" %c %u %" SCNu64 " %" SCNu64, &op, &threads, &operations, &seed) == 4 && threads <= 64) {
        pthread_t ids[64];
        struct job jobs[64];
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        for (unsigned t = 0; t < threads; t++) {
            jobs[t] = (struct job){op == 'w', operations, seed + t};
            pthread_create(&ids[t], NULL, work, &jobs[t]);
        }
        for (unsigned t = 0; t < threads; t++)
            pthread_join(ids[t], NULL);
        clock_gettime(CLOCK_MONOTONIC, &to);
        printf("%lld\n", (long long)(to.tv_sec - from.tv_sec) * 1000000000 + (to.tv_nsec - from.tv_nsec));
        fflush(stdout);
    }
    pmemblk_close(pool);
    return 0;
}
