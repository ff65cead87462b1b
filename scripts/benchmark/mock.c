// A mock engine for benchmarks: never the bottleneck (it answers some 60,000 requests a second on one core).
//
//     mock PORT
//
// A GET is answered 200 with counters, whatever its path; a POST is a completion. Fields of its body steer it:
//     "stream": true     a stream of server-sent events; else one JSON answer
//     "seed": S          milliseconds: how long a plain answer takes (0: none), or the time between a stream's chunks.
//                        Streams tick together unless 100000 is added to S: then each keeps the phase that it began with.
//     "max_tokens": N    chunks of a stream
// Environment:
//     DELAY              seconds until it listens
//     LOADLOG, MNAME     file that gets a line "SECONDS MNAME WHAT" at each start, ready, term and exit (wall clock)
//
// Bodies must come with a Content-Length. One thread, one epoll, a timer of 1 ms while anything is under way.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_ACTIVE = 16384, BUFFER = 16384, EVENTS = 256, STAGGERED = 100000, DEFAULT_CHUNKS = 200, DEFAULT_PERIOD = 20 };

typedef struct {
    int fd; // -1: its client left; freed at the next tick if it is active
    bool stream;
    bool active; // is in the table of those that get something later
    int period;  // ms
    int chunks_left;
    int64_t due; // ns, monotonic
    int length;
    char buffer[BUFFER];
} Connection;

static Connection *active[MAX_ACTIVE];
static int active_count;
static long chunk_count;
static long request_count;

static int timer;
static bool timer_runs;

// Answers, made once. The two chunks differ, so that nothing can take the second for a repetition of the first.
static char answer[2048];
static int answer_length;
static char chunks[2][512];
static int chunk_length;
static const char STREAM_HEAD[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                  "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
static const char STREAM_END[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void note(const char *what) {
    const char *path = getenv("LOADLOG"), *name = getenv("MNAME");
    if (!path)
        return;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    FILE *file = fopen(path, "a");
    if (!file)
        return;
    fprintf(file, "%ld.%06ld %s %s\n", (long)t.tv_sec, t.tv_nsec / 1000, name ? name : "-", what);
    fclose(file);
}

static void leave(void) {
    note("term");
    note("exit"); // there is nothing to stop
    _exit(0);
}

static void make_answers(void) {
    char body[1024], data[400];
    int length = snprintf(body, sizeof body,
                          "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\","
                          "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%0400d\"},"
                          "\"finish_reason\":\"stop\"}],"
                          "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tokens\":21}}", 0);
    answer_length = snprintf(answer, sizeof answer,
                             "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                             length, body);
    length = snprintf(data, sizeof data,
                      "data: {\"id\":\"chatcmpl-123456\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
                      "\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" hello\"},"
                      "\"finish_reason\":null}]}\n\n");
    chunk_length = snprintf(chunks[0], sizeof chunks[0], "%x\r\n%s\r\n", length, data);
    memcpy(chunks[1], chunks[0], sizeof chunks[0]);
    memcpy(strstr(chunks[1], " hello"), " world", strlen(" world"));
}

static void make_nonblocking(int fd) {
    int one = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

// A reader that does not keep up makes all wait: what is measured here keeps up.
static void send_all(int fd, const char *data, int length) {
    while (length > 0) {
        int written = write(fd, data, length);
        if (written < 0 && errno == EAGAIN) {
            usleep(50);
            continue;
        }
        if (written < 0)
            return;
        data += written;
        length -= written;
    }
}

static void run_timer(bool on) {
    if (on == timer_runs)
        return;
    timer_runs = on;
    struct itimerspec each = {{0, on ? 1000000 : 0}, {0, on ? 1000000 : 0}};
    timerfd_settime(timer, 0, &each, NULL);
}

static void activate(Connection *c, bool together) {
    int64_t period = c->period * 1000000LL, t = now();
    c->due = together ? (t / period + 1) * period : t + period;
    c->active = true;
    active[active_count++] = c;
    run_timer(true);
}

// Gives one active connection what is due; false once it needs nothing more.
static bool advance(Connection *c, int64_t t) {
    if (t < c->due)
        return true;
    if (!c->stream) {
        send_all(c->fd, answer, answer_length);
        return false;
    }
    c->due += c->period * 1000000LL;
    if (c->chunks_left == 0) {
        send_all(c->fd, STREAM_END, sizeof STREAM_END - 1);
        return false;
    }
    send_all(c->fd, chunks[c->chunks_left & 1], chunk_length);
    c->chunks_left--;
    chunk_count++;
    return true;
}

static void tick(void) {
    uint64_t expirations;
    if (read(timer, &expirations, sizeof expirations) < 0)
        return;
    int64_t t = now();
    for (int i = 0; i < active_count;) {
        Connection *c = active[i];
        if (c->fd >= 0 && advance(c, t)) {
            i++;
            continue;
        }
        active[i] = active[--active_count];
        c->active = false;
        if (c->fd < 0)
            free(c);
    }
    if (active_count == 0)
        run_timer(false);
}

static int number(const char *body, const char *name, int otherwise) {
    const char *at = strstr(body, name);
    if (!at)
        return otherwise;
    at += strlen(name);
    while (*at == ':' || *at == ' ')
        at++;
    return atoi(at);
}

static void answer_get(Connection *c) {
    char body[400], all[600];
    int length = snprintf(body, sizeof body,
                          "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\"}],"
                          "\"chunks\":%ld,\"requests\":%ld,\"open\":%d}", chunk_count, request_count, active_count);
    length = snprintf(all, sizeof all,
                      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", length, body);
    send_all(c->fd, all, length);
}

static void answer_completion(Connection *c, const char *body) {
    int seed = number(body, "\"seed\"", 0);
    request_count++;
    c->stream = strstr(body, "\"stream\": true") || strstr(body, "\"stream\":true");
    c->period = seed % STAGGERED;
    if (c->stream) {
        c->period = c->period > 0 ? c->period : DEFAULT_PERIOD;
        c->chunks_left = number(body, "\"max_tokens\"", DEFAULT_CHUNKS);
        send_all(c->fd, STREAM_HEAD, sizeof STREAM_HEAD - 1);
        activate(c, seed < STAGGERED);
    } else if (c->period > 0) {
        activate(c, false);
    } else {
        send_all(c->fd, answer, answer_length);
    }
}

static void hear(Connection *c) {
    int received = read(c->fd, c->buffer + c->length, BUFFER - c->length - 1);
    if (received < 0 && errno == EAGAIN)
        return;
    if (received <= 0) {
        close(c->fd);
        c->fd = -1;
        if (!c->active)
            free(c);
        return;
    }
    c->length += received;
    c->buffer[c->length] = 0;
    char *head_end = strstr(c->buffer, "\r\n\r\n");
    if (!head_end)
        return;
    char *body = head_end + 4;
    char *field = strcasestr(c->buffer, "content-length:");
    int content_length = field && field < head_end ? atoi(field + strlen("content-length:")) : 0;
    if (c->length - (body - c->buffer) < content_length)
        return;
    c->length = 0; // the next request; its bytes overwrite these, which are read below for the last time
    if (strncmp(c->buffer, "GET ", 4) == 0)
        answer_get(c);
    else
        answer_completion(c, body);
}

static void watch(int epoll, int fd, void *whose) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = whose};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void accept_all(int epoll, int listener) {
    int fd;
    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        Connection *c = calloc(1, sizeof *c);
        make_nonblocking(fd);
        c->fd = fd;
        watch(epoll, fd, c);
    }
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&address, sizeof address) < 0 || listen(fd, 4096) < 0) {
        perror("mock: listen");
        exit(1);
    }
    make_nonblocking(fd);
    return fd;
}

int main(int argc, char **argv) {
    note("start");
    if (argc != 2) {
        fprintf(stderr, "usage: mock PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    int signals = signalfd(-1, &term, 0);
    make_answers();
    const char *delay = getenv("DELAY");
    struct pollfd told = {.fd = signals, .events = POLLIN};
    if (delay && poll(&told, 1, atof(delay) * 1000) > 0)
        leave();
    int listener = listen_on(atoi(argv[1]));
    note("ready");
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    int epoll = epoll_create1(0);
    watch(epoll, listener, &listener);
    watch(epoll, timer, &timer);
    watch(epoll, signals, &signals);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            void *whose = events[i].data.ptr;
            if (whose == &listener)
                accept_all(epoll, listener);
            else if (whose == &timer)
                tick();
            else if (whose == &signals)
                leave();
            else
                hear(whose);
        }
    }
}
