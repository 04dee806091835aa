const videos = [...document.querySelectorAll(".row video")], moved = new Set();
const others = (video) => videos.filter((other) => other !== video);
const bring = (video, time) => {
  if (!video.seeking && time < video.duration) { moved.add(video); video.currentTime = time; }
};
const tell = () => { document.getElementById("unplayable").hidden = false; };
for (const video of videos) {
  if (video.error) tell();  // it may have failed while the page was still being read
  video.addEventListener("error", tell);
  video.addEventListener("play", () => others(video).forEach((other) => other.play().catch(() => {})));
  video.addEventListener("pause", () => others(video).forEach((other) => other.pause()));
  video.addEventListener("ratechange", () => others(video).forEach((other) => { other.playbackRate = video.playbackRate; }));
  video.addEventListener("seeking", () => {
    if (!moved.has(video)) others(video).forEach((other) => bring(other, video.currentTime));
  });
  video.addEventListener("seeked", () => moved.delete(video));
}
videos[0].addEventListener("timeupdate", () => {
  for (const other of others(videos[0])) {
    if (Math.abs(other.currentTime - videos[0].currentTime) > 0.12) bring(other, videos[0].currentTime);
  }
});
if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
  for (const video of videos) { video.autoplay = false; video.pause(); }
}
