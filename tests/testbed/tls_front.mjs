// TLS in front of the test issuer, which itself is on loopback: node tls_front.mjs LISTEN PORT CERT KEY TO_PORT
// The issuer tells addresses as it was asked, over http; whoever asks here is told https.
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';

const [listen, port, cert, key, to] = process.argv.slice(2);

const server = https.createServer({ cert: readFileSync(cert), key: readFileSync(key) }, (req, res) => {
  const { host } = req.headers;
  const up = http.request({ port: to, host: '127.0.0.1', method: req.method, path: req.url, headers: req.headers }, async (answer) => {
    let body = '';
    for await (const part of answer) body += part;
    const { 'content-length': _, ...headers } = answer.headers;
    res.writeHead(answer.statusCode, headers);
    res.end(body.replaceAll(`http://${host}`, `https://${host}`));
  });
  up.on('error', (e) => { res.writeHead(502); res.end(String(e)); });
  req.pipe(up);
});
server.listen(port, listen, () => console.error(`listening on ${listen}:${server.address().port}`));
