// Makes ids.json, from the formulas of docs/concepts/ids.md alone and in another language than the package:
//   node tests/golden/ids.mjs > tests/golden/ids.json
import { createHash } from "node:crypto";

const sha256 = (bytes) => createHash("sha256").update(bytes).digest();
const H = (kind, ...fields) => sha256(Buffer.from(JSON.stringify([kind, ...fields]), "utf8"));

function id(digest, start, stop) {
  const isBad = () => {
    for (let at = start; at < stop; at += 8) {
      if (digest.subarray(at, at + 8).every((byte) => byte === 0)) return true;
    }
    return false;
  };
  while (isBad()) digest = sha256(digest);
  return digest.subarray(start, stop).toString("hex");
}

const messageIds = [
  "m",
  "",
  "ajs-next-1746662400000-0f3c2d6e-7a41-4c2b-9d11-5a2b6f0e9c77",
  "550e8400-e29b-41d4-a716-446655440000",
  "Grüße, 世界 🌍",
  "quote \" backslash \\ slash /",
  "control \u0000\u0001\b\t\n\f\r\u001f and \u007f",
  "separators \u2028 \u2029",
];
const attempts = [
  ["m", "abc", "ghi", 4, "2025-03-23T20:00:00Z"],
  ["m", "abc", "ghi", 5, "2025-03-23T20:00:00Z"],
  ["m", null, null, 1, "2025-03-23T20:00:00.123456789+02:00"],
  ["Grüße", "5f7dd6d21ad74f3842b1fc47", "qL9vTgNcd3xW2b5Yp8RkZm", 0, "2025-03-23T20:00:00Z"],
  ["m", "abc", "ghi", -1, "2025-03-23T20:00:00Z"],
];
const exchanges = ["x", "", "0197a3c2-5d4e-7abc-8def-0123456789ab", "déjà \"vu\""];
const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
function base62(traceId) {
  let [rest, text] = [BigInt("0x" + traceId), ""];
  for (let at = 0; at < 22; at++) [rest, text] = [rest / 62n, digits[Number(rest % 62n)] + text];
  return text;
}
const traceIds = [
  "0af7651916cd43dd8448eb211c80319c",
  "00000000000000000000000000000001",
  "ffffffffffffffffffffffffffffffff",
  "00000000000000008448eb211c80319c",
];
const [T, S] = [traceIds[0], "b7ad6b7169203331"];
const contexts = [
  ...traceIds.map((traceId) => ({ messageId: `00-${traceId}-${S}-01-unique`, traceId, spanId: S, flags: 1 })),
  { messageId: `00-${T}-${S}-00`, traceId: T, spanId: S, flags: 0 },
  { messageId: `00-${T}-${S}-03-`, traceId: T, spanId: S, flags: 3 },
  ...traceIds.map((traceId) => ({ messageId: `tr1-${base62(traceId)}0123456Zaz`, traceId, spanId: "", flags: 1 })),
];
const noContexts = [
  `00-${"0".repeat(32)}-${S}-01-unique`,
  `00-${T}-${"0".repeat(16)}-01-unique`,
  `00-${T.toUpperCase()}-${S}-01-unique`,
  `00-${T}-${S.toUpperCase()}-01-unique`,
  `00-${T}-${S}-0A-unique`,
  `01-${T}-${S}-01-unique`,
  `ff-${T}-${S}-01-unique`,
  `00-${T}-${S}-01unique`,
  `00-${T}-${S}-011`,
  `00-${T}-${S}-1-unique`,
  `00-${T.slice(1)}-${S}-01-unique`,
  `00-${T}-${S}`,
  ` 00-${T}-${S}-01`,
  `tr1-${base62(T)}0123456Za`,
  `tr1-${base62(T)}0123456Zazz`,
  `tr1-${base62(T)}012345-Zaz`,
  `TR1-${base62(T)}0123456Zaz`,
  `tr1-${"0".repeat(22)}0123456Zaz`,
  `tr1-${"z".repeat(22)}0123456Zaz`,
  `tr1-${base62((1n << 128n).toString(16))}0123456Zaz`,
];
const records = [
  ["segment.error", '{"event":"Error Logged"}'],
  ["segment.other", '{"event":"Grüße"}'],
];

const golden = {
  about:
    "H(kind, ...fields) is the SHA-256 of the compact JSON array [kind, field, ...] in UTF-8, as JSON.stringify " +
    "writes it; an absent field is null. A trace id is its bytes 0-15, an exchange's span id bytes 16-23, an " +
    "attempt's span id bytes 0-7. While any eight bytes of an id are all zero, the SHA-256 of the digest takes " +
    "the digest's place. A log.record.uid is SHA-256(event name, newline, the record's own bytes), bytes 0-15. " +
    "A messageId that carries a context (contexts) has its trace id; one that does not quite (noContexts), its own.",
  messages: messageIds.map((messageId) => ({ messageId, traceId: id(H("segment.message", messageId), 0, 16) })),
  contexts,
  noContexts: noContexts.map((messageId) => ({ messageId, traceId: id(H("segment.message", messageId), 0, 16) })),
  exchanges: exchanges.map((exchangeId) => {
    const digest = H("segment.exchange", exchangeId);
    return { exchangeId, traceId: id(digest, 0, 16), spanId: id(digest, 16, 24) };
  }),
  attempts: attempts.map((fields) => {
    const [messageId, destinationId, sourceId, attempt, occurredAt] = fields;
    const spanId = id(H("segment.attempt", ...fields), 0, 8);
    return { messageId, destinationId, sourceId, attempt, occurredAt, spanId };
  }),
  records: records.map(([event, raw]) => ({ event, raw, uid: id(sha256(Buffer.from(`${event}\n${raw}`)), 0, 16) })),
};
console.log(JSON.stringify(golden, null, 2));
