/* The app behind the tunnels: one epoll loop that does as little per request as a server can.
 *
 *   GET  /bytes/N   N bytes
 *   GET  /hold      no answer until somebody asks for /release
 *   any  /once      1 KiB, and the end of the connection
 *   else            1 KiB
 *
 * Bodies (Content-Length or chunked) are read and dropped. Listens on 127.0.0.1 and prints the
 * port that it was given.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FD = 65536, MAX_HEAD = 16384, PIECE = 262144, SMALL = 1024 };

enum state { HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER };

struct connection {
    enum state state;
    uint64_t left; /* of the body, or of the chunk */
    uint64_t due;  /* bytes of a long answer that are not written yet */
    int line;      /* characters in the current trailer line */
    bool holding;
    size_t held;
    char head[MAX_HEAD + 1];
};

static struct connection *connections[MAX_FD];
static char answer[256 + SMALL], last_answer[256 + SMALL], filler[PIECE], input[PIECE];
static int answer_length, last_answer_length, loop;

static void drop(int fd) {
    free(connections[fd]);
    connections[fd] = NULL;
    close(fd);
}

static void await(int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(loop, EPOLL_CTL_MOD, fd, &event);
}

/* Writes what is due; false if the connection is gone. */
static bool go_on(int fd, struct connection *c) {
    while (c->due) {
        ssize_t n = write(fd, filler, c->due < PIECE ? c->due : PIECE);
        if (n < 0 && errno == EAGAIN) {
            await(fd, EPOLLIN | EPOLLOUT);
            return true;
        }
        if (n <= 0)
            return false;
        c->due -= n;
        if (!c->due)
            await(fd, EPOLLIN);
    }
    return true;
}

static bool respond(int fd, struct connection *c) {
    const char *path = strchr(c->head, ' ');
    c->state = HEAD;
    c->held = 0;
    if (path && !strncmp(path, " /bytes/", 8)) {
        char head[128];
        uint64_t size = strtoull(path + 8, NULL, 10);
        int n = snprintf(head, sizeof head,
                         "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
                         "Content-Length: %llu\r\n\r\n",
                         (unsigned long long)size);
        if (write(fd, head, n) != n)
            return false;
        c->due = size;
        return go_on(fd, c);
    }
    if (path && !strncmp(path, " /hold", 6)) {
        c->holding = true;
        return true;
    }
    if (path && !strncmp(path, " /once", 6)) {
        if (write(fd, last_answer, last_answer_length) != last_answer_length)
            return false;
        shutdown(fd, SHUT_WR);
        return false;
    }
    if (path && !strncmp(path, " /release", 9))
        for (int other = 0; other < MAX_FD; other++)
            if (connections[other] && connections[other]->holding) {
                connections[other]->holding = false;
                if (write(other, answer, answer_length) != answer_length)
                    shutdown(other, SHUT_RDWR);
            }
    return write(fd, answer, answer_length) == answer_length;
}

/* Takes part of a head; returns how much of the data belongs to it, or -1. */
static ssize_t take_head(struct connection *c, const char *data, size_t n) {
    size_t before = c->held, from = before > 3 ? before - 3 : 0;
    if (n > MAX_HEAD - before)
        n = MAX_HEAD - before;
    memcpy(c->head + before, data, n);
    c->held += n;
    char *end = memmem(c->head + from, c->held - from, "\r\n\r\n", 4);
    if (!end)
        return c->held == MAX_HEAD ? -1 : (ssize_t)n;
    end[4] = 0;
    c->state = BODY;
    c->left = 0;
    if (strncmp(c->head, "GET ", 4)) {
        const char *length = strcasestr(c->head, "\r\ncontent-length:");
        if (length)
            c->left = strtoull(length + 17, NULL, 10);
        else if (strcasestr(c->head, "\r\ntransfer-encoding:"))
            c->state = CHUNK_SIZE;
    }
    return end + 4 - (c->head + before);
}

static bool is_hex(char ch) {
    return (ch >= '0' && ch <= '9') || ((ch | 32) >= 'a' && (ch | 32) <= 'f');
}

static bool consume(int fd, struct connection *c, const char *data, size_t n) {
    const char *end = data + n;
    while (data < end) {
        if (c->state == HEAD) {
            ssize_t taken = take_head(c, data, end - data);
            if (taken < 0)
                return false;
            data += taken;
        } else if (c->state == BODY || c->state == CHUNK) {
            uint64_t taken = (uint64_t)(end - data) < c->left ? (uint64_t)(end - data) : c->left;
            data += taken;
            c->left -= taken;
            if (c->state == CHUNK && !c->left)
                c->state = CHUNK_END;
        } else if (c->state == CHUNK_SIZE) {
            char ch = *data++;
            if (is_hex(ch))
                c->left = c->left * 16 + (ch <= '9' ? ch - '0' : (ch | 32) - 'a' + 10);
            else if (ch == '\n') {
                c->state = c->left ? CHUNK : TRAILER;
                c->line = 0;
            }
        } else if (c->state == CHUNK_END) {
            if (*data++ == '\n')
                c->state = CHUNK_SIZE;
        } else { /* TRAILER: an empty line ends the message */
            char ch = *data++;
            if (ch == '\n' && !c->line)
                c->state = BODY;
            else if (ch == '\n')
                c->line = 0;
            else if (ch != '\r')
                c->line++;
        }
        if (c->state == BODY && !c->left && !respond(fd, c))
            return false;
    }
    return true;
}

int main(void) {
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    if (bind(listener, (void *)&at, size) || listen(listener, 4096) ||
        getsockname(listener, (void *)&at, &size)) {
        perror("origin");
        return 1;
    }
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    memset(filler, 'x', PIECE);
    answer_length = sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                                    "Content-Length: %d\r\n\r\n", SMALL);
    memset(answer + answer_length, 'x', SMALL);
    answer_length += SMALL;
    last_answer_length = sprintf(last_answer, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                                              "Connection: close\r\nContent-Length: %d\r\n\r\n",
                                 SMALL);
    memset(last_answer + last_answer_length, 'x', SMALL);
    last_answer_length += SMALL;

    loop = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[256];
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(loop, ready, 256, -1);
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0)
                    continue;
                if (fd >= MAX_FD || !(connections[fd] = calloc(1, sizeof **connections))) {
                    close(fd);
                    continue;
                }
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
                epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
                continue;
            }
            struct connection *c = connections[fd];
            if (!c)
                continue;
            if ((ready[i].events & EPOLLOUT) && !go_on(fd, c)) {
                drop(fd);
                continue;
            }
            if (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                ssize_t n = read(fd, input, sizeof input);
                if ((n < 0 && errno != EAGAIN) || !n || (n > 0 && !consume(fd, c, input, n)))
                    drop(fd);
            }
        }
    }
}
