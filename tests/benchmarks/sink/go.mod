module faillog-otel/sink

go 1.24
