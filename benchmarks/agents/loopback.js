// Loaded before the localtunnel server, which listens for its clients on every address.
const net = require("net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...given) {
  return typeof given[0] === "function"
    ? listen.call(this, 0, "127.0.0.1", given[0])
    : listen.apply(this, given);
};
