// Opens streams at once, reads all of them to their ends, and says what came.
//
//     streams PORT COUNT SEED CHUNKS SECONDS
//
// SEED and CHUNKS are what mock.c makes of them; after SECONDS it gives up. Output, one line:
//     events N done N broken N seconds S
// `events` counts "data: " lines, the [DONE] of each stream included. The exit code is 1 unless all streams were whole.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ = 65536, TAIL = 5, EVENTS = 256 };
static const char MARK[] = "data: ", LAST_CHUNK[] = "0\r\n\r\n"; // both found across reads by the tail that is kept

typedef struct {
    int fd;
    char tail[TAIL];
    int tail_length;
} Stream;

static long events_seen;
static int done, broken;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int begin(int port, const char *request, int length) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (void *)&address, sizeof address) < 0 || write(fd, request, length) != length) {
        perror("streams: connect");
        exit(1);
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void hear(Stream *stream) {
    static char data[TAIL + READ];
    memcpy(data, stream->tail, stream->tail_length);
    int received = read(stream->fd, data + stream->tail_length, READ);
    if (received < 0 && errno == EAGAIN)
        return;
    if (received <= 0) {
        broken++;
        close(stream->fd);
        return;
    }
    int length = stream->tail_length + received;
    for (char *at = data; (at = memmem(at, data + length - at, MARK, sizeof MARK - 1)); at += sizeof MARK - 1)
        events_seen++;
    if (length >= TAIL && memcmp(data + length - TAIL, LAST_CHUNK, TAIL) == 0) {
        done++;
        close(stream->fd);
        return;
    }
    stream->tail_length = length < TAIL ? length : TAIL; // shorter than MARK: nothing is counted twice
    memcpy(stream->tail, data + length - stream->tail_length, stream->tail_length);
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: streams PORT COUNT SEED CHUNKS SECONDS\n");
        return 2;
    }
    int port = atoi(argv[1]), count = atoi(argv[2]), seed = atoi(argv[3]), chunks = atoi(argv[4]);
    char body[300], request[700];
    int length = snprintf(body, sizeof body,
                          "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi there\"}],"
                          "\"stream\":true,\"seed\":%d,\"max_tokens\":%d}", seed, chunks);
    length = snprintf(request, sizeof request,
                      "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                      "Content-Length: %d\r\n\r\n%s", length, body);
    Stream *streams = calloc(count, sizeof *streams);
    int epoll = epoll_create1(0);
    double began = now(), end = began + atof(argv[5]);
    for (int i = 0; i < count; i++) {
        streams[i].fd = begin(port, request, length);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &streams[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, streams[i].fd, &event);
    }
    while (done + broken < count && now() < end) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(epoll, events, EVENTS, 200);
        for (int i = 0; i < ready; i++)
            hear(events[i].data.ptr);
    }
    printf("events %ld done %d broken %d seconds %.3f\n", events_seen, done, broken, now() - began);
    return done == count ? 0 : 1;
}
