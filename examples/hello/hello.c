/* A very small web server: says hello and who called. One process per connection, keep-alive, ends at SIGTERM at once.
 * cc -static -O2 -o hello hello.c ; PORT says where it listens (8080). */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define MAX 32768

static void stop(int sig) { (void)sig; _exit(0); }

/* The value of header `name` in the request's head, or "". */
static void header(const char *head, const char *name, char *out, size_t room) {
  size_t n = strlen(name), i = 0;
  for (const char *l = strstr(head, "\r\n"); l; l = strstr(l + 2, "\r\n")) {
    if (strncasecmp(l + 2, name, n) || l[2 + n] != ':') continue;
    for (const char *v = l + 3 + n; *v && *v != '\r' && i + 1 < room; v++)
      if (i || (*v != ' ' && *v != '\t')) out[i++] = *v;
    break;
  }
  out[i] = 0;
}

/* What comes from outside goes into a page only like this. */
static void escape(const char *in, char *out, size_t room) {
  size_t i = 0;
  for (; *in && i + 7 < room; in++) {
    const char *e = *in == '<' ? "&lt;" : *in == '>' ? "&gt;" : *in == '&' ? "&amp;" : *in == '"' ? "&quot;" : 0;
    if (e) i += (size_t)sprintf(out + i, "%s", e);
    else out[i++] = *in;
  }
  out[i] = 0;
}

static int put(int c, const char *p, size_t n) {
  while (n) {
    ssize_t w = send(c, p, n, MSG_NOSIGNAL);
    if (w <= 0) return -1;
    p += w, n -= (size_t)w;
  }
  return 0;
}

/* Answers one request; returns 0 when the connection may go on. */
static int answer(int c, const char *head) {
  char method[16] = "", path[1024] = "", version[16] = "", user[512], nice[4096], accept[512], conn[64], size[32], te[64];
  char body[6144], top[512];
  if (sscanf(head, "%15s %1023s %15s", method, path, version) != 3) return -1;
  header(head, "x-syp-user", user, sizeof user);
  header(head, "accept", accept, sizeof accept);
  header(head, "connection", conn, sizeof conn);
  header(head, "content-length", size, sizeof size);
  header(head, "transfer-encoding", te, sizeof te);
  int html = strstr(accept, "text/html") != NULL, get = !strcmp(method, "GET"), is_head = !strcmp(method, "HEAD");
  int close_it = strcasecmp(conn, "close") == 0 || strcmp(version, "HTTP/1.1") || te[0] || (size[0] && strcmp(size, "0"));
  char *shown = path + strcspn(path, "?");
  *shown = 0;
  const char *status = !get && !is_head ? "405 Method Not Allowed" : !strcmp(path, "/") || !strcmp(path, "/healthz") ? "200 OK" : "404 Not Found";
  if (strncmp(status, "200", 3)) html = 0, snprintf(body, sizeof body, "%s\n", status);
  else if (!strcmp(path, "/healthz")) html = 0, snprintf(body, sizeof body, "ok\n");
  else if (html) {
    escape(user[0] ? user : "a stranger (no gate in front of me?)", nice, sizeof nice);
    snprintf(body, sizeof body,
             "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>hello</title>"
             "<style>body{font:18px/1.6 system-ui,sans-serif;max-width:34em;margin:18vh auto;padding:0 1em;color:#223}b{color:#06c}</style>"
             "<h1>Hello, <b>%s</b></h1><p>This page comes from a plain container image that knows nothing of logins. "
             "The gate in front of it let you in and told it who you are.</p></html>\n", nice);
  } else
    snprintf(body, sizeof body, "hello from syp\nyou are: %s\n", user[0] ? user : "a stranger (no gate in front of me?)");
  int n = snprintf(top, sizeof top, "HTTP/1.1 %s\r\nContent-Type: text/%s; charset=utf-8\r\nContent-Length: %zu\r\nConnection: %s\r\n\r\n", status,
                   html ? "html" : "plain", strlen(body), close_it ? "close" : "keep-alive");
  if (put(c, top, (size_t)n) || (!is_head && put(c, body, strlen(body)))) return -1;
  return close_it;
}

static void serve(int c) {
  static char buf[MAX + 1];
  size_t have = 0;
  struct timeval idle = {75, 0}, soon = {2, 0};
  int one = 1;
  setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &idle, sizeof idle);
  setsockopt(c, SOL_SOCKET, SO_SNDTIMEO, &idle, sizeof idle);
  setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  for (;;) {
    char *end;
    buf[have] = 0;
    while (!(end = strstr(buf, "\r\n\r\n"))) {
      ssize_t r = have < MAX ? recv(c, buf + have, MAX - have, 0) : 0;
      if (r <= 0) return;
      buf[have += (size_t)r] = 0;
    }
    size_t used = (size_t)(end - buf) + 4;
    end[2] = 0;
    if (answer(c, buf)) break;
    memmove(buf, buf + used, have -= used);
  }
  /* a body that nobody reads: take the rest, so that the answer is not lost to a reset */
  shutdown(c, SHUT_WR);
  setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
  while (recv(c, buf, MAX, 0) > 0) {}
}

int main(void) {
  const char *port = getenv("PORT");
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port ? port : "8080"))};
  int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  signal(SIGTERM, stop);
  signal(SIGINT, stop);
  signal(SIGCHLD, SIG_IGN);
  setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(s, (struct sockaddr *)&at, sizeof at) || listen(s, 1024)) {
    perror("hello: cannot listen");
    return 1;
  }
  printf("hello listens on %u\n", (unsigned)ntohs(at.sin_port));
  fflush(stdout);
  for (;;) {
    int c = accept(s, NULL, NULL);
    if (c < 0) continue;
    pid_t child = fork();
    if (child == 0) {
      close(s);
      serve(c);
      _exit(0);
    }
    close(c);
  }
}
