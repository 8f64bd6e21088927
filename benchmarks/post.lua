-- POST 1 KiB with nine headers, as a webhook sender would; Host, Content-Length and what the
-- tunnel itself wants come on top.
wrk.method = "POST"
wrk.body = string.rep("x", 1024)
wrk.headers["User-Agent"] = "Webhooks/1.0 (+https://example.com/docs/webhooks)"
wrk.headers["Accept"] = "*/*"
wrk.headers["Accept-Encoding"] = "gzip, deflate"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-Request-Id"] = "0d9a3c1e-6b1f-4f0e-9c55-2f1c6a7de801"
wrk.headers["X-Signature"] = "sha256=5d41402abc4b2a76b9719d911017c5925d41402abc4b2a76b9719d911017c592"
wrk.headers["X-Timestamp"] = "1767225600"
wrk.headers["Idempotency-Key"] = "evt_1MqLiJLkdIwHu7ixUEgbFdYF"
wrk.headers["Traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
