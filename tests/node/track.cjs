// As an application does it: `node track.cjs HOST MESSAGE_ID...` tracks one event for each messageId.
const { Analytics } = require("@segment/analytics-node");

const [host, ...messageIds] = process.argv.slice(2);
const analytics = new Analytics({ writeKey: "simulated", host });
analytics.on("error", (error) => {
  console.error(error);
  process.exitCode = 1;
});
for (const messageId of messageIds) {
  analytics.track({ userId: "user-1", event: "Order Completed", properties: { total: 27.5 }, messageId });
}
analytics.closeAndFlush();
