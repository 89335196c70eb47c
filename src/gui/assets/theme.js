// Before the first paint: the theme and density this browser was told.
(() => {
  const root = document.documentElement;
  try {
    const theme = localStorage.getItem("theme");
    if (["auto", "light", "dark"].includes(theme)) root.dataset.theme = theme;
    const density = localStorage.getItem("density");
    if (["compact", "dense", "relaxed"].includes(density)) root.dataset.density = density;
  } catch { /* storage is off */ }
})();
